"""Put a strategy, or all, to the checks of what every strategy must satisfy.

The exit code is 0 where every check holds.
"""

import argparse
from collections.abc import Sequence

from omegaconf import DictConfig

from fl_bench.build import find_target, nearest
from fl_bench.commands._common import add_config_dir
from fl_bench.config.checked import checked
from fl_bench.config.compose import compose, options
from fl_bench.config.explain import explained
from fl_bench.config.named import add_named
from fl_bench.config.rules import at_sites
from fl_bench.config.words import readable
from fl_bench.errors import ConfigError
from fl_bench.runs.scratch import scratch_folder


def arguments(parser: argparse.ArgumentParser) -> None:
    about = "strategy=NAME, or strategy=all; and key=value words for the runs, such as task=imdb"
    parser.add_argument("words", nargs="+", help=about)
    add_config_dir(parser)


def command(given: argparse.Namespace) -> int:
    """Print a line for each check."""
    strategies = sorted(options("strategy", given.config_dir))
    chosen = [word for word in given.words if word.startswith("strategy=") or "=" not in word]
    overrides = readable(word for word in given.words if word not in chosen)
    if len(chosen) > 1:
        raise ConfigError(f"{chosen[1]}: check takes one strategy, or strategy=all, and key=value words")
    name = "".join(chosen).removeprefix("strategy=")
    if name not in [*strategies, "all"]:
        raise ConfigError(f"strategy={name}: {nearest(name, strategies)}")
    found: list[tuple[str, str]] = []

    def composed(words: Sequence[str]) -> DictConfig:
        return compose(words, given.config_dir)

    with explained(overrides, given.config_dir), scratch_folder() as scratch:
        add_named(overrides, given.config_dir)
        for strategy in strategies if name == "all" else [name]:
            words = [f"strategy={strategy}", *overrides]
            cfg = checked(words, given.config_dir)
            if at_sites(cfg):
                raise ConfigError(
                    "engine=deployment: the checks make data of their own, and sites have theirs; leave it out"
                )

            from fl_bench.runs.checks import check  # torch and Flower: seconds, once the words are known to be right

            for part in ("server", "client", "schedule"):
                find_target(cfg.strategy[part])
            print(strategy, flush=True)
            for title, outcome, text in check(strategy, composed, overrides, scratch):
                print(f"  {title:<11} {outcome:<7} {text}", flush=True)
                found.append((outcome, text))
    outcomes = [outcome for outcome, _ in found]
    if not {"ok", "FAILED"} & {*outcomes}:
        reasons = [text for _, text in found]
        why = max(reasons, key=reasons.count)  # beside it are checks that its yaml does not have
        raise ConfigError(f"strategy={name}: none of the checks could be made: {why}")
    failed = outcomes.count("FAILED")
    print(f"{failed} failed" if failed else "all hold")
    return 1 if failed else 0
