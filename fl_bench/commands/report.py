"""Make of a study one page that works offline, one table of all rounds, and tables and figures for papers.

fl-bench report outputs/multirun/2026-01-31_12-00-00-000000
fl-bench report SWEEP RUN RUN --metric test_loss --baseline fedavg --out paper
"""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fl_bench.commands.compare import add_question
from fl_bench.errors import ConfigError, plain

if TYPE_CHECKING:
    from fl_bench.studies.study import Study


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of runs, or with runs below")
    parser.add_argument("--out", type=Path, help="the folder to write to; without it, the first FOLDER")
    add_question(parser)


def command(given: argparse.Namespace) -> int:
    """Write report.html, study.csv, study.parquet and report/, and print their names."""
    from fl_bench.studies.study import load  # pandas

    for file in make(load(given.folders, given.by), given):
        print(plain(file))
    return 0


def make(study: "Study", given: argparse.Namespace) -> list[Path]:
    """Write the report of a study of the given folders, and return what was written, the page first."""
    out = given.out or given.folders[0]
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: must be a folder")
    from fl_bench.studies import report  # SciPy and Matplotlib
    from fl_bench.studies.compare import compare
    from fl_bench.studies.values import values

    answer = compare(study, given.metric, given.baseline, given.at, given.target)
    numbers, _ = values(study, answer.metric, given.at)
    return report.write(study, answer, numbers, out, _again(given))


def _again(given: argparse.Namespace) -> str:
    """The words that make this report again."""
    options = ("metric", "baseline", "at", "target", "out")
    words = [word for name in options if (value := getattr(given, name)) is not None for word in (f"--{name}", value)]
    words += ["--by", ",".join(given.by)] if given.by else []
    return shlex.join(["fl-bench", "report", *map(str, [*given.folders, *words])])
