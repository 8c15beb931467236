"""Compare the arms of a study, such as strategies, with a baseline: differences with intervals and p, and costs.

fl-bench compare outputs/multirun/2026-01-31_12-00-00-000000
fl-bench compare SWEEP RUN RUN --metric test_loss --baseline fedavg --at last:5
fl-bench compare SWEEP --by strategy,local.lr --format latex
"""

import argparse
import shutil
import sys
from pathlib import Path

FORMATS = ("text", "markdown", "latex", "csv")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of runs, or with runs below")
    add_question(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the tables; latex needs booktabs")


def add_question(parser: argparse.ArgumentParser) -> None:
    """What is to be compared with what."""
    parser.add_argument("--metric", help="a column of metrics.csv; without it, the target_metric of the runs")
    parser.add_argument(
        "--baseline", metavar="ARM", help="without it, of each setting the first with strategy=fedavg, else the first"
    )
    parser.add_argument(
        "--at", default="final",
        help="what of a run counts: final (the last round), last:K (the mean of the last K evaluations), best (the "
        "round best by validation) or area (under the curve)",
    )  # fmt: skip
    parser.add_argument(
        "--by", metavar="KEY,...", type=lambda word: word.split(","), default=[],
        help="keys that make an arm, such as strategy,local.lr; all others that vary make a setting",
    )  # fmt: skip
    parser.add_argument(
        "--target", type=float, help="a value to come to; without it, those of the config, or where the baseline ends"
    )


def command(given: argparse.Namespace) -> int:
    """Print the tables."""
    from fl_bench.studies import tables  # pandas and SciPy
    from fl_bench.studies.compare import compare
    from fl_bench.studies.study import load

    found = compare(load(given.folders, given.by), given.metric, given.baseline, given.at, given.target)
    if given.format == "text" and sys.stdout.isatty():
        print(tables.text(found, shutil.get_terminal_size().columns), end="")
    else:
        print(tables.FORMATS[given.format](found), end="")
    return 0
