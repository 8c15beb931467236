"""The page of a study: one HTML file that fetches nothing, with tables that sort and figures that switch."""

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup
from rich.filesize import decimal

from fl_bench.config.changes import apart, flat, matters, shown
from fl_bench.config.origin import Origin
from fl_bench.storage import run_json
from fl_bench.studies import drawn
from fl_bench.studies.compare import Comparison
from fl_bench.studies.study import Study
from fl_bench.studies.tables import Table, tables_of

if TYPE_CHECKING:
    from fl_bench.studies.trials import Tuning

HERE = Path(__file__).parent
NO_FINAL = "No final run counts yet: the same tuning with resume=true --final-seeds N makes them."
TEXTS = ("setting", "arm", "verdict", "folder", "changes")  # columns to the left, sorted as words


@dataclass(frozen=True)
class Findings:
    """Runs, what is said of them, and the value of each of them that this is said of."""

    study: Study
    answer: Comparison
    values: pd.Series


def page(found: Findings | None, tunings: Mapping[Path, "Tuning"], command: str) -> str:
    """The HTML of runs, if there are any, and of the tunings in these folders; `command` is what made it.

    Equal runs give equal bytes. Raises Damaged where a table or a picture of a run cannot be read.
    """
    style, script = (Markup((HERE / name).read_text()) for name in ("page.css", "page.js"))
    of_runs, data = _of_runs(found, command) if found else ({"commands": command}, {"arms": [], "runs": []})
    sections = _tunings(found, tunings, data) if tunings else []
    if not found:
        of_runs |= {"title": f"Tuning of {_list(data['arms'])}", "about": NO_FINAL}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string((HERE / "page.html").read_text()).render(
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_digest(style)}; script-src {_digest(script)}",
        style=style,
        script=script,
        has_runs=found is not None,
        tunings=sections,
        data=Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")),
        **of_runs,
    )


def _of_runs(found: Findings, command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What page.html shows of the runs, and what page.js draws."""
    study, answer, values = found.study, found.answer, found.values
    arms, settings = (list(dict.fromkeys(study.runs[name])) for name in ("arm", "setting"))
    records = [run_json.read_run(Path(folder)) for folder in study.runs["folder"]]
    folders = [*study.runs["folder"], *(run.folder for run in study.skipped)]
    root = os.path.commonpath(list(map(os.path.dirname, folders)))

    def below(text: str) -> str:  # folders as seen from the one that all runs are in
        return text.replace(f"{root}{os.sep}", "") if root else text

    skipped = tuple(f"{run.folder}: " for run in study.skipped)  # which have a list of their own
    partitions, left_out = drawn.partitions(study, settings)
    runs = study.runs.assign(value=values, folder=study.runs["folder"].map(below), changes=_changes(records))
    shown = {
        "title": f"{answer.metric} of {_list(arms)}",
        "heading": f"{'How good' if answer.uncompared else 'Which is better'}, and at what cost?",
        "about": _about(study, arms, settings),
        "tables": _answer(answer, arms),
        "captions": [line for lines in answer.captions.values() for line in lines],
        "notes": [below(note) for note in answer.notes if not note.startswith(skipped)],
        "runs": _runs(runs, answer.metric, arms),
        "left_out": left_out,
        "pictures": drawn.pictures(study, arms),
        "skipped": [(below(run.folder), below(run.why)) for run in study.skipped],
        "versions": _list(sorted({_version(record) for record in records})),
        "commands": "\n".join([*(f"fl-bench {shlex.join(record['overrides'])}" for record in records), command]),
    }
    return shown, drawn.curves(study, answer.metric, values, arms, settings) | {"partitions": partitions}


def _tunings(found: Findings | None, tunings: Mapping[Path, "Tuning"], data: dict[str, Any]) -> list[dict[str, Any]]:
    """What page.html shows of each tuning; what page.js draws of it, and new arms, are added to `data`."""
    from fl_bench.studies import tuned, tuned_page  # Optuna

    runs = found.study.runs if found else pd.DataFrame({"arm": [], "folder": []})
    overrides = [run_json.read_run(Path(folder))["overrides"] for folder in runs["folder"]]
    data["tunings"], sections = [], []
    for folder, tuning in tunings.items():
        names = tuned_page.names(tuning, list(runs["arm"]), overrides)
        arms = data["arms"] = list(dict.fromkeys([*data["arms"], *names.values()]))
        data["tunings"].append(tuned_page.data(tuning, {label: arms.index(name) for label, name in names.items()}))
        tables = (tuned_page.best(tuning, names), tuned_page.importance(tuning, names))
        best, importance = (table and _plain(table, arms) for table in tables)
        sections.append({
            "heading": "Tuning" if len(tunings) == 1 else f"Tuning {folder.name}",
            "best": best,
            "importance": importance,
            "commands": "\n".join(tuned.best(tuning).get("command", [])),
            "captions": [*tuned_page.captions(tuning), *([tuned_page.IMPORTANCE] if importance else [])],
        })  # fmt: skip
    return sections


def _digest(text: str) -> str:
    """How a Content-Security-Policy names the one script, or style, that it lets in."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 8 else f"{', '.join(names[:6])} and {len(names) - 6} more"


def _about(study: Study, arms: Sequence[str], settings: Sequence[str]) -> str:
    counts = {
        "runs": len(study.runs),
        "arms": len(arms),
        "seeds": study.runs["seed"].nunique(),
        "settings": len(settings),
    }
    text = ", ".join(f"{number} {name.removesuffix('s') if number == 1 else name}" for name, number in counts.items())
    number = len(study.skipped)
    skipped = f" {number} more {'does' if number == 1 else 'do'} not count, see below." if number else ""
    return f"{', '.join(sorted(set(study.runs['task'])))}: {text}.{skipped}"


def _version(record: Mapping[str, Any]) -> str:
    changed = " with changes" if record.get("git_dirty") else ""
    commit = f" at commit {record['git_commit'][:12]}{changed}" if record.get("git_commit") else ""
    return f"fl-bench {record.get('versions', {}).get('fl-bench', 'of an older version')}{commit}"


def _changes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each run's config says otherwise than the first one's, but for the seed.

    Of a group with another option only the option, and the keys that the run's words name.
    """
    first = records[0]
    found = []
    for record in records:
        groups = {key: now for key, (_, now) in apart(first["choices"], record["choices"]).items() if matters(key)}
        keys = {
            key: now for key, (_, now) in apart(flat(first["config"]), flat(record["config"])).items() if matters(key)
        }
        below = [f".{group.replace('/', '.')}." for group in groups]
        named = Origin.of(record).named
        kept = {key: now for key, now in keys.items() if key in named or not any(name in f".{key}." for name in below)}
        words = {**groups, **kept}
        words.pop("seed", None)
        found.append(", ".join(f"{key}={shown(now)}" for key, now in words.items()))
    return found


def _plain(table: Table, arms: Sequence[str]) -> dict[str, Any]:
    """A table without headings, whose first column is the arm."""
    ((_, rows),) = table.parts
    return _table(table.header, rows, [row[0] for row in rows], arms)


def _answer(answer: Comparison, arms: Sequence[str]) -> list[dict[str, Any]]:
    """The tables of the answer, of one row of cells for each row of its frames."""
    found = []
    for table, frame in zip(tables_of(answer), (answer.differences, answer.costs, answer.across), strict=False):
        groups = frame.groupby("setting", sort=False) if "setting" in frame else [("", frame)]
        of_rows = [arm for _, group in groups for arm in group["arm"]]
        with_setting = any(heading for heading, _ in table.parts)
        rows = [[*([heading] * with_setting), *row] for heading, rows in table.parts for row in rows]
        found.append(_table([*(["setting"] * with_setting), *table.header], rows, of_rows, arms))
    return found


def _runs(runs: pd.DataFrame, metric: str, arms: Sequence[str]) -> dict[str, Any]:
    header = ["setting", "arm", "seed", metric, "rounds", "bytes", "wall s", "folder", "changes"]
    each: Any = runs.itertuples()  # its stubs know no columns
    rows = [
        [run.setting, run.arm, str(run.seed), f"{run.value:.4g}", str(run.rounds), decimal(int(run.bytes)),
         f"{run.wall_seconds:.1f}", run.folder, run.changes]
        for run in each
    ]  # fmt: skip
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return _table([header[i] for i in kept], [[row[i] for i in kept] for row in rows], list(runs["arm"]), arms)


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], of: Sequence[str], arms: Sequence[str]
) -> dict[str, Any]:
    """A table for the template: columns (name, whether it is of texts), and rows, each with the number of its arm."""
    return {
        "columns": [(name, name in TEXTS) for name in header],
        "rows": [(arms.index(arm), row) for arm, row in zip(of, rows, strict=True)],
    }
