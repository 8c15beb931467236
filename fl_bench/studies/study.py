"""All runs below some folders, as tables: who is compared with whom, and what was measured."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fl_bench.config.changes import apart, flat, matters, shown
from fl_bench.config.compose import GROUPS, Choices
from fl_bench.config.origin import Origin
from fl_bench.config.paths import PATHS
from fl_bench.errors import ConfigError, Damaged, FlBenchError
from fl_bench.metrics import Metric, metric_of
from fl_bench.storage import run_json
from fl_bench.storage.folder import FOLDERS
from fl_bench.studies.labels import IGNORED, is_of, labels
from fl_bench.studies.sweep import FINAL, TUNING

ALWAYS = (
    "task",
    "strategy",
    "num_rounds",
    "target_metric",
    "targets",
)  # keys of which there is a column, whoever names them
TABLES = ("metrics.csv", "clients.csv", "partition.csv", "timing.csv")  # what must be as the run wrote it


@dataclass(frozen=True)
class Skipped:
    """A run that does not count."""

    folder: str
    why: str


@dataclass(frozen=True)
class Study:
    """Runs to compare. Values of a group are the names of options; lists and mappings are JSON texts.

    runs: a row for each run that counts: folder, seed, arm (what is compared, by a label), setting (the conditions;
        "" where there is one), also (keys that words of the arm name and its label leaves out), data_digest,
        partition_digest, best (the round that is best by validation, NaN where there is none), rounds (the number of
        the last), steps (of all clients, NaN where a round has not counted them), bytes (both ways), virtual_seconds,
        wall_seconds (of the rounds), and a column for each key that a run names ("strategy", "partition.alpha"), None
        where the run has no such key.
    rounds: a row for each round of each run: run (the index in `runs`), the columns of metrics.csv, and steps, bytes,
        virtual_seconds and wall_seconds up to its end.
    better: "higher" or "lower" for each metric's column, as far as the runs say.
    skipped: the other runs.
    """

    runs: pd.DataFrame
    rounds: pd.DataFrame
    better: Mapping[str, str]
    skipped: Sequence[Skipped]


class NoRuns(ConfigError):
    """There is no run that counts."""


def load_finals(folders: Sequence[Path], by: Sequence[str] = ()) -> Study | None:
    """What `load` says; None where there is a tuning, and no run of its best that counts."""
    try:
        return load(folders, by)
    except NoRuns:
        if any((folder / TUNING).is_file() for folder in folders):
            return None
        raise


def load(folders: Sequence[Path], by: Sequence[str] = ()) -> Study:
    """All finished runs below the folders; `by` names the keys that make an arm, instead of all that are no setting.

    Raises ConfigError where a folder is not there or no run has such a key, NoRuns where no run below counts.
    """
    skipped, records, tables = [], {}, []
    for folder in _runs(folders):
        try:
            record = _finished(folder)
            table = _rounds(folder)
        except FlBenchError as error:
            skipped.append(Skipped(str(folder), re.sub(f"^{re.escape(str(folder))}(/|: )", "", str(error))))
        else:
            records[str(folder)] = record
            tables.append(table)
    if not records:
        first = f"none of {len(skipped)} counts; the first: {skipped[0].why}" if skipped else "no run.json is there"
        raise NoRuns(f"{' '.join(map(str, folders))}: there is no finished run below: {first}")
    rows = [_row(folder, record, table) for (folder, record), table in zip(records.items(), tables, strict=True)]
    values = _values(list(records.values()))
    twice = _repeated(records, values[[key for key in map(str, values) if is_of(key, by) or not is_of(key, IGNORED)]])
    kept = [i for i, folder in enumerate(records) if folder not in twice]
    runs, values = pd.DataFrame([rows[i] for i in kept]), values.iloc[kept].reset_index(drop=True)
    rounds = pd.concat([tables[i].assign(run=run) for run, i in enumerate(kept)], ignore_index=True)
    better = _better(list(rounds.columns), [records[folder] for folder in runs["folder"]])
    skipped += [Skipped(folder, why) for folder, why in twice.items()]
    named = [Origin.of(records[folder]).named for folder in runs["folder"]]
    called = labels(values, named, by)
    others = values.drop(columns=called.columns, errors="ignore")  # the group `setting`, as the conditions are called
    return Study(pd.concat([runs, called, others], axis=1), rounds, better, skipped)


def _runs(folders: Sequence[Path]) -> Iterator[Path]:
    """The folders of runs and tunings below, each once, in the order of the numbers in their names.

    Of a tuning only those of its final runs: trials are what it chose from.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder")
        for path, below, names in os.walk(folder):
            below[:] = sorted({*below} - {*FOLDERS}, key=_by_number)
            if TUNING in names:
                below[:] = [name for name in below if name == FINAL]
            if {run_json.NAME, TUNING} & {*names}:
                found.setdefault(Path(path).resolve(), Path(path))
    yield from found.values()


def _by_number(name: str) -> list[str]:
    return [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _finished(folder: Path) -> dict[str, Any]:
    """The record of a run; an error that says why it does not count, where it is not done or not what it was."""
    if (folder / TUNING).is_file():
        raise ConfigError(f"the trials of a tuning; its runs that count are in {FINAL}/")
    record = run_json.read_run(folder)
    if record["status"] != "done":
        raise ConfigError(": ".join(filter(None, (record["status"], record.get("error")))))
    if changed := run_json.changed(folder, record, TABLES):
        raise Damaged(f"is damaged: {changed[0]} is not what the run wrote")
    return record


def _rounds(folder: Path) -> pd.DataFrame:
    """metrics.csv, with what the rounds have cost up to the end of each."""
    try:
        table, timing = (pd.read_csv(folder / name) for name in ("metrics.csv", "timing.csv"))
        costs = table.reindex(columns=["bytes_down", "bytes_up"]).fillna(0).sum(axis=1).cumsum()
        counted = table.reindex(columns=["steps"])["steps"].where(table["round"] > 0, 0)
        steps = counted.cumsum(skipna=False)  # older versions did not count them: unknown from there on
        seconds = timing.set_index("round").filter(like="_seconds").sum(axis=1).cumsum()
        wall, virtual = (
            table["round"].map(seconds),
            table.reindex(columns=["virtual_seconds"])["virtual_seconds"].ffill().fillna(0.0),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"is damaged: metrics.csv or timing.csv cannot be read: {error}") from None
    if table.empty:
        raise Damaged("is damaged: metrics.csv has no round")
    return table.assign(steps=steps, bytes=costs, virtual_seconds=virtual, wall_seconds=wall)


def _row(folder: str, record: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    last, digests = table.iloc[-1], record["data"] or {}
    return {
        "folder": folder,
        "seed": record["config"].get("seed"),
        "data_digest": digests.get("data"),
        "partition_digest": digests.get("partition"),
        "best": (record.get("best") or {}).get("round", float("nan")),
        "rounds": int(last["round"]),
        "steps": float(last["steps"]),
        "bytes": int(last["bytes"]),
        "virtual_seconds": float(last["virtual_seconds"]),
        "wall_seconds": float(last["wall_seconds"]),
    }


def _values(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A column for each key that a run names: the strategy first, then the groups; rates and the like, which may have
    been tuned for each arm, last."""
    named = {key for record in records for key in Origin.of(record).named} - {"seed"}
    configs = [flat(record["config"]) for record in records]
    known = {*GROUPS, *(key for config in configs for key in config)}
    whole = {key for key in named - known if any(other.startswith(f"{key}.") for other in known)}  # as local.optimizer
    keys = sorted(
        {*ALWAYS, *(named & known), *whole},
        key=lambda key: (key != "strategy", key not in GROUPS, is_of(key, ["local"]), key),
    )
    rows = [
        [_group(record, key) if key in GROUPS else _plain(_at(record["config"], key)) for key in keys]
        for record in records
    ]
    return pd.DataFrame(rows, columns=keys, dtype=object)


def _group(record: Mapping[str, Any], group: str) -> str | None:
    choices: Choices = record.get("choices", {})
    return choices.get(group)


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | Mapping) else value


def _repeated(records: Mapping[str, Mapping[str, Any]], words: pd.DataFrame) -> dict[str, str]:
    """By folder why a run does not count, of those with the words and the seed of an earlier one."""
    first: dict[tuple, str] = {}
    why: dict[str, str] = {}
    rows = words.itertuples(index=False, name=None)
    for (folder, record), row in zip(records.items(), rows, strict=True):
        other = first.setdefault((*row, record["config"].get("seed")), folder)
        if other == folder:
            continue
        configs = (flat(run["config"]) for run in (records[other], record))
        differ = (f"{key} is {shown(b)} and not {shown(a)}" for key, (a, b) in apart(*configs).items() if _matters(key))
        reason = "other data" if record["data"] != records[other]["data"] else next(differ, None)
        why[folder] = f"has the words of {other}, but {reason}" if reason else f"the same as {other}"
    return why


def _matters(key: str) -> bool:
    return matters(key) and key not in PATHS  # of files the digests say whether they are the same


def _better(columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By column which way it gets better. A spread is better when it is smaller, whatever it is the spread of."""
    names = {name: way for record in records for name, way in record.get("better", {}).items()}
    metrics = {name: Metric(name, way) for name, way in names.items()}
    known = {column: metric for column in columns if (metric := metric_of(column, metrics))}
    return {column: "lower" if column.endswith("_std") else metric.better for column, metric in known.items()}
