"""Measure the model of a run, on its own data or on others, without training.

fl-bench evaluate RUN                             # the test set, as at the run's end
fl-bench evaluate RUN --clients                   # and what each client holds out, by the model that it would use
fl-bench evaluate RUN data=synthetic evaluate.batch_size=1000
"""

import argparse
import os
from pathlib import Path

from fl_bench.commands._common import RECHOSEN, add_run, recorded
from fl_bench.errors import ConfigError
from fl_bench.storage import run_json
from fl_bench.storage.folder import OURS

RESULT = "evaluate.csv"
ALSO = ("data", "partition", "shift")  # groups of which a measurement may choose other options than the run


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--clients", action="store_true", help="also measure what the clients hold out")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--round", type=int, help="one that has a checkpoint; without it, the run's last")
    which.add_argument(
        "--best", action="store_true", help="the round that is best by validation, if it has a checkpoint"
    )
    parser.add_argument("--out", type=Path, help=f"the table to write; without it, {RESULT} in RUN_DIR")


def command(given: argparse.Namespace) -> int:
    """Print the metrics, and write them into a table: a row for the server, and one for each client."""
    run, out = given.run_dir, given.out or given.run_dir / RESULT
    name = os.path.relpath(out.resolve(), run.resolve())
    if OURS.fullmatch(name) and name != RESULT:
        raise ConfigError(f"--out {given.out}: is a file of the run, and stays as it is")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {given.out}: there is no folder {out.parent}")
    words = ["engine=inline", *given.overrides]
    cfg, _ = recorded(run, words, given.config_dir, given.trust, (*RECHOSEN, *ALSO))
    if any(word.startswith("shift") for word in given.overrides) and not given.clients:
        raise ConfigError("shift: changes what clients hold, not the test set; add --clients")
    cfg.evaluate.clients = given.clients
    number = given.round
    if given.best:
        best = run_json.read_run(run)["best"]
        if best is None:
            raise ConfigError(f"--best: {run} has no validation; see evaluate.validation")
        number = best["round"]

    from fl_bench.runs.evaluate import evaluate  # torch and Flower

    return evaluate(cfg, run, number, out)
