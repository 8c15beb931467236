"""Make of a study one page that works offline, one table of all rounds, and tables and figures for papers.

fl-bench report outputs/multirun/2026-01-31_12-00-00-000000
fl-bench report SWEEP RUN RUN --metric test_loss --baseline fedavg --out paper
"""

import argparse
from pathlib import Path

from fl_bench.commands.compare import add_question
from fl_bench.errors import note, plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of runs, or with runs below")
    parser.add_argument("--out", type=Path, help="the folder to write to; without it, the first FOLDER")
    add_question(parser)


def command(given: argparse.Namespace) -> int:
    """Write report.html, study.csv, study.parquet and report/, and print their names."""
    from fl_bench.studies.study import load_finals  # pandas

    study = load_finals(given.folders, given.by)
    from fl_bench.studies.report import make  # SciPy and Matplotlib, once there is something to draw

    question = {name: getattr(given, name) for name in ("metric", "baseline", "at", "target")}
    answer, written = make(study, given.folders, given.by, given.out, **question)
    for line in answer.notes if answer else ():
        note(line)
    for file in written:
        print(plain(file))
    return 0
