"""Find the best values of keys for each strategy, with the same budget, and run the best.

fl-bench tune strategy=fedavg,scaffold 'local.lr=tag(log,interval(0.01,1))' --trials 20 --final-seeds 5
"""

import argparse
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
from fl_bench.studies.arms import TUNE, arms_word
from fl_bench.studies.ending import sum_up
from fl_bench.studies.sweep import FINAL, RESUME, SWEEP_DIR, SWEEPS, last

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
    words = [*how, *["hydra.sweeper.on_test=true"] * given.on_test, *readable(given.overrides)]
    if overlap := sorted(_seeds(words) & {*range(given.final_seeds)}):
        raise ConfigError(f"--final-seeds {given.final_seeds}: seed {overlap[0]} is one of tuning; say other --seeds")
    own = ["--config-dir", str(given.config_dir)] if given.config_dir else []
    if not any(word.startswith(SWEEP_DIR) for word in words):
        words += last(beside_options(words)) or [f"{SWEEP_DIR}{SWEEPS / datetime.now().strftime(STAMP)}"]
    code = call("run", ["-m", *own, TUNE, *words])
    if code:
        return code
    (folder,) = (Path(word.removeprefix(SWEEP_DIR)) for word in words if word.startswith(SWEEP_DIR))
    best: Any = OmegaConf.to_container(OmegaConf.load(folder / BEST))
    if given.final_seeds:
        code = _final(best, given.final_seeds, folder, own)
    else:
        sum_up(folder)
    for arm in best["failed"]:
        note(f"{arm}: all its trials have failed, so that it has no best, and no final runs")
    return code or int(bool(best["failed"]))


def _final(best: Mapping[str, Any], count: int, folder: Path, own: Sequence[str]) -> int:
    """Run the best of each arm with so many seeds."""
    seeds = f"seed={','.join(map(str, range(count)))}"
    arms = arms_word(list(best["arms"].values()))
    return call("run", ["-m", *own, *best["words"], seeds, arms, f"{SWEEP_DIR}{folder / FINAL}", RESUME])


def _seeds(words: Sequence[str]) -> set[Any]:
    """The seeds of the runs that tune."""
    value: Any = OmegaConf.load(CONF / "hydra" / "sweeper" / "tune.yaml").seeds
    for override in OverridesParser.create().parse_overrides(list(words)):
        value = override.value() if override.key_or_group == "hydra.sweeper.seeds" else value
    return {*value}
