"""All that a report writes: the page, one tidy table, and tables and figures for papers."""

import json
import shlex
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from fl_bench.errors import ConfigError
from fl_bench.storage import files
from fl_bench.studies import plots, tables
from fl_bench.studies.compare import Comparison, summary
from fl_bench.studies.page import page
from fl_bench.studies.study import Study
from fl_bench.studies.values import values as values_of

PAPER = "report"  # the folder of figures and tables


def make(
    study: Study, folders: Sequence[Path], by: Sequence[str] = (), out: Path | None = None, **question: Any
) -> tuple[Comparison, list[Path]]:
    """Sum up the runs below the folders, from which `study` was loaded with `by`, and write the report of it into
    `out`, or the first of them; returns the answer and what was written, the page first.

    `question` is that of `compare`: metric, baseline, at and target. Raises ConfigError where it has no answer.
    """
    place = out or folders[0]
    if place.exists() and not place.is_dir():
        raise ConfigError(f"--out {place}: must be a folder")
    answer = summary(study, **question)
    numbers, _ = values_of(study, answer.metric, question.get("at", "final"))
    said = {**question, "out": out, "by": ",".join(by) or None}
    options = [word for name, value in said.items() if value is not None for word in (f"--{name}", value)]
    again = shlex.join(["fl-bench", "report", *map(str, [*folders, *options])])
    return answer, write(study, answer, numbers, place, again)


def write(study: Study, answer: Comparison, values: pd.Series, out: Path, command: str) -> list[Path]:
    """Write report.html, study.csv, study.parquet, and into report/ figures and tables; return what was written.

    `values` has the number of each run that is compared, and `command`, what made it,
    stands in the page.
    """
    paper = out / PAPER
    paper.mkdir(parents=True, exist_ok=True)
    table = tidy(study)
    parquet = BytesIO()
    table.to_parquet(parquet, index=False)
    contents = {
        out / "report.html": page(study, answer, values, command).encode(errors="backslashreplace"),
        out / "study.csv": table.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace"),
        out / "study.parquet": parquet.getvalue(),
        paper / "table.md": tables.markdown(answer).encode(errors="backslashreplace"),
        paper / "table.tex": tables.latex(answer).encode(errors="backslashreplace"),
    }
    for file, content in contents.items():
        files.write(file, content)
    return [*contents, *plots.draw(study, answer.metric, values, paper)]


def tidy(study: Study) -> pd.DataFrame:
    """A row for each round of each run, with what the run is: every key that a run names is a column."""
    runs = study.runs.drop(columns=[name for name in study.rounds if name in study.runs])
    table = runs.merge(study.rounds, left_index=True, right_on="run").reset_index(drop=True)
    mixed = [name for name in table if table[name].dtype == object and table[name].dropna().map(type).nunique() > 1]
    for name in mixed:  # Parquet has one type for each column
        table[name] = table[name].map(json.dumps, na_action="ignore")
    return table
