"""Find the best values of keys for each strategy, with the same budget, and run the best.

fl-bench tune strategy=fedavg,scaffold 'local.lr=tag(log,interval(0.01,1))' --trials 20 --final-seeds 5
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fl_bench.commands import call
from fl_bench.commands._common import add_config_dir
from fl_bench.config.schema import CONF
from fl_bench.config.words import beside_options, readable
from fl_bench.errors import ConfigError, note
from fl_bench.studies.arms import TUNE, arms_word, with_study
from fl_bench.studies.ending import sum_up
from fl_bench.studies.sweep import FINAL, RESUME, SWEEP_DIR, SWEEPS, folders, last

BEST, STAMP = "best.yaml", "%Y-%m-%d_%H-%M-%S-%f"
# What each flag says of a key of conf/hydra/sweeper/tune.yaml, which has the defaults.
FLAGS = {
    "trials": "how many, for each arm",
    "batch": "how many are asked for together, and compared where some are stopped",
    "metric": "what to choose by, such as validation_accuracy",
    "direction": "minimize or maximize, if not as the task declares",
    "seeds": "of the runs of each trial, such as 1000,1001",
    "prune": "stop trials early: halving, median or none",
    "per": "the keys whose values with commas are arms, such as strategy,model",
}
LISTS = ("seeds", "per")


def arguments(parser: argparse.ArgumentParser) -> None:
    about = "key=value words, of which some have several values, or an interval(a,b)"
    parser.add_argument("overrides", nargs="*", default=[], help=about)
    for flag, about in FLAGS.items():
        parser.add_argument(f"--{flag}", help=about)
    parser.add_argument("--on-test", action="store_true", help="allow a metric of the test set")
    about = "run the best of each arm with seeds 0 to N-1"
    parser.add_argument("--final-seeds", type=int, default=0, metavar="N", help=about)
    add_config_dir(parser)


def command(given: argparse.Namespace) -> int:
    """Tune, then run the best of each arm; 1 where an arm has none."""
    said = {flag: value for flag in FLAGS if (value := getattr(given, flag)) is not None}
    how = [f"hydra.sweeper.{flag}={f'[{value}]' if flag in LISTS else value}" for flag, value in said.items()]
    words = readable([*how, *["hydra.sweeper.on_test=true"] * given.on_test, *given.overrides])
    if given.final_seeds < 0:
        raise ConfigError(f"--final-seeds {given.final_seeds}: must be 0 or more")
    if overlap := [seed for seed in _seeds(words) if seed in range(given.final_seeds)]:
        raise ConfigError(f"--final-seeds {given.final_seeds}: seed {min(overlap)} is one of tuning; say other --seeds")
    own = ["--config-dir", str(given.config_dir)] if given.config_dir else []
    if not folders(words):
        same = last(beside_options(with_study([TUNE, *words], given.config_dir)))
        words += same or [f"{SWEEP_DIR}{SWEEPS / datetime.now().strftime(STAMP)}"]
    again = _again(given, [*own, *(part for flag, value in said.items() for part in (f"--{flag}", value))])
    code = call("run", ["-m", *own, TUNE, *words], again=again)
    if code:
        return code
    folder = folders(words)[-1]
    best: Any = OmegaConf.to_container(OmegaConf.load(folder / BEST))
    if given.final_seeds:
        code = _final(best, given.final_seeds, folder, own, again)
    else:
        sum_up(folder)
    for arm in best["failed"]:
        note(f"{arm}: all its trials have failed, so that it has no best, and no final runs")
    return code or int(bool(best["failed"]))


def _again(given: argparse.Namespace, flags: Sequence[str]) -> str:
    """The command that goes on with this tuning, and with its final runs."""
    words = [word for word in given.overrides if word.lower() != RESUME]
    more = [*["--on-test"] * given.on_test, *(["--final-seeds", str(given.final_seeds)] if given.final_seeds else [])]
    return shlex.join(["fl-bench", "tune", *words, RESUME, *flags, *more])


def _final(best: Mapping[str, Any], count: int, folder: Path, own: Sequence[str], again: str) -> int:
    """Run the best of each arm with so many seeds."""
    seeds = f"seed={','.join(map(str, range(count)))}"
    words = [seeds, arms_word(list(best["arms"].values())), f"{SWEEP_DIR}{folder / FINAL}", RESUME]
    return call("run", ["-m", *own, *best["words"], *words], again=again)


def _seeds(words: Sequence[str]) -> list[Any]:
    """The seeds of the runs that tune, as far as they are a list."""
    value: Any = OmegaConf.load(CONF / "hydra" / "sweeper" / "tune.yaml").seeds
    for override in OverridesParser.create().parse_overrides(list(words)):
        value = override.value() if override.key_or_group == "hydra.sweeper.seeds" else value
    return list(value) if isinstance(value, Sequence) else []
