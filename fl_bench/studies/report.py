"""All that a report writes: the page, one tidy table, and tables and figures for papers."""

import json
import shlex
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fl_bench.errors import ConfigError
from fl_bench.storage import files
from fl_bench.studies import plots, tables
from fl_bench.studies.compare import Comparison, summary
from fl_bench.studies.page import Findings, page
from fl_bench.studies.study import Study
from fl_bench.studies.sweep import TUNING
from fl_bench.studies.values import values as values_of

if TYPE_CHECKING:
    from fl_bench.studies.trials import Tuning

PAPER = "report"  # the folder of figures and tables


def make(
    study: Study | None, folders: Sequence[Path], by: Sequence[str] = (), out: Path | None = None, **question: Any
) -> tuple[Comparison | None, list[Path]]:
    """Sum up the runs below the folders, from which `study` was loaded with `by`, and the tunings that folders are;
    write the report into `out`, or the first folder. Returns the answer, None without a study, and what was written,
    the page first: report.html, study.csv, study.parquet, and in report/ tables and figures.

    `question` is that of `compare`: metric, baseline, at and target. Raises ConfigError where it has no answer.
    """
    place = out or folders[0]
    try:
        (place / PAPER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {place}: must be a folder that can be written: {error.strerror}") from None
    found = None
    if study:
        answer = summary(study, **question)
        numbers, _ = values_of(study, answer.metric, question.get("at", "final"))
        found = Findings(study, answer, numbers)
    said = {**question, "out": out, "by": ",".join(by) or None}
    options = [word for name, value in said.items() if value is not None for word in (f"--{name}", value)]
    again = shlex.join(["fl-bench", "report", *map(str, [*folders, *options])])
    tunings = _tunings(folders)
    contents: dict[str, str | bytes] = {"report.html": page(found, tunings, again)}
    if tunings:
        from fl_bench.studies.tuned_page import papers

        contents |= {f"{PAPER}/{name}": text for name, text in papers(list(tunings.values())).items()}
    if found:
        table = tidy(found.study)
        parquet = BytesIO()
        table.to_parquet(parquet, index=False)
        contents |= {
            "study.csv": table.to_csv(index=False, lineterminator="\n"),
            "study.parquet": parquet.getvalue(),
            f"{PAPER}/table.md": tables.markdown(found.answer),
            f"{PAPER}/table.tex": tables.latex(found.answer),
        }
    for name, content in contents.items():
        files.write(place / name, content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))
    figures = plots.draw(found.study, found.answer.metric, found.values, place / PAPER) if found else []
    return found.answer if found else None, [*(place / name for name in contents), *figures]


def _tunings(folders: Sequence[Path]) -> dict[Path, "Tuning"]:
    """Of these folders those that are tunings."""
    there = [folder for folder in folders if (folder / TUNING).is_file()]
    if not there:
        return {}
    from fl_bench.studies.trials import Tuning  # Optuna

    return {folder: Tuning.load(folder) for folder in there}


def tidy(study: Study) -> pd.DataFrame:
    """A row for each round of each run, with what the run is: every key that a run names is a column."""
    runs = study.runs.drop(columns=[name for name in study.rounds if name in study.runs])
    table = runs.merge(study.rounds, left_index=True, right_on="run").reset_index(drop=True)
    mixed = [name for name in table if table[name].dtype == object and table[name].dropna().map(type).nunique() > 1]
    for name in mixed:  # Parquet has one type for each column
        table[name] = table[name].map(json.dumps, na_action="ignore")
    return table
