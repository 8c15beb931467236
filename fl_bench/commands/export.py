"""Give finished or interrupted runs to a tracker, from their run.json and metrics.csv.

fl-bench export RUN [RUN ...] --to mlflow [tracker.uri=sqlite:///other.db]
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from fl_bench.build import build, nearest
from fl_bench.commands._common import add_config_dir, folder
from fl_bench.config.compose import compose, options
from fl_bench.config.explain import explained
from fl_bench.errors import ConfigError, plain
from fl_bench.observers.tracker import Tracker, Tracking
from fl_bench.storage import run_json
from fl_bench.storage.tables import rows_of

KEY = "tracker."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--to", nargs="+", required=True, metavar=("NAME", "tracker.KEY=VALUE"),
        help="a tracker: tensorboard, mlflow, wandb or one of your own; then what differs from its yaml",
    )  # fmt: skip
    add_config_dir(parser)


def command(given: argparse.Namespace) -> int:
    name, *more = given.to  # takes what stands behind it, runs too
    words = [*given.runs, *more]
    keys = [word for word in words if word.startswith(KEY)]
    folders = [folder(word) for word in words if word not in keys]
    if not folders:
        raise ConfigError("export: needs a run: fl-bench export RUN --to NAME")
    if name not in (known := options("tracker", given.config_dir)):
        raise ConfigError(f"tracker={name}: {nearest(name, known)}")
    runs = [(run, *_read(run)) for run in folders]
    with explained():
        cfg = compose([f"tracker={name}", *(f"++{key}" for key in keys)], given.config_dir)  # `build` refuses best
    failed = 0
    for run, record, rows in runs:
        tracking = Tracking(build(cfg.tracker, Tracker), run, rows)
        tracking.begin()
        tracking.close(record["status"])
        failed += tracking.tracker is None
        print(plain(f"{run}: ") + ("not exported" if tracking.tracker is None else f"{len(rows)} rows to {name}"))
    return 1 if failed else 0


def _read(run: Path) -> tuple[dict, list[Mapping[str, str]]]:
    """The record of a run and the rows of its metrics.csv."""
    record = run_json.read(run)
    try:
        rows = list(rows_of(run / "metrics.csv"))
    except (FileNotFoundError, NotADirectoryError):
        rows = []
    if not record or not rows:
        raise ConfigError(f"{run}: is no folder of a run: it needs run.json and metrics.csv with a row")
    return record, rows
