"""How runs are called: what of a run is compared, and under which conditions."""

import json
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import pandas as pd

from fl_bench.build import nearest
from fl_bench.errors import ConfigError

# Keys, each with all that is below it. The first make neither an arm nor a setting.
IGNORED = (
    "seed", "engine", "figures", "checkpoint", "tracker", "resume", "overwrite", "hydra", "data.root", "data.cache",
    "expected",
)  # fmt: skip
SETTING = (
    "data", "partition", "shift", "data_drift", "attack", "network", "num_clients", "clients_per_round", "num_rounds",
    "evaluate", "experiment", "targets", "target_metric",
)  # fmt: skip


def is_of(key: str, names: Sequence[str]) -> bool:
    """Whether a key is one of these, or below one."""
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in names)


def labels(values: pd.DataFrame, named: Sequence[AbstractSet[str]], by: Sequence[str]) -> pd.DataFrame:
    """The columns arm, setting and also of `Study.runs`, from the values of keys, and which of them each run names.

    `also` leaves out what no run of an arm names: it is a default.
    """
    for key in by:
        if not any(is_of(column, [key]) for column in map(str, values)):
            raise ConfigError(f"--by {key}: no run has such a key; {nearest(key, values.columns)}")
    vary = [key for key in map(str, values) if values[key].nunique(dropna=False) > 1]
    counts = [key for key in vary if not is_of(key, IGNORED)]
    arms = [key for key in vary if is_of(key, by)] or [key for key in counts if not (by or _is_setting(key))]
    settings = [key for key in counts if key not in arms]
    short = _telling(values, arms) or ["strategy"]
    if values[short].isna().all(axis=1).any():  # a run that has none of these keys would have no name
        short = arms
    arm = _written(values, short, brief=True)
    said = {(label, key) for label, keys in zip(arm, named, strict=True) for key in keys}
    rest = pd.DataFrame({
        key: [value if (label, key) in said else None for label, value in zip(arm, values[key], strict=True)]
        for key in arms
        if key not in short
    }, index=values.index, dtype=object)  # fmt: skip
    return pd.DataFrame({
        "arm": arm,
        "setting": _written(values, _telling(values, sorted(settings, key=lambda key: key != "task"))),
        "also": _written(rest, list(map(str, rest))),
    })  # fmt: skip


def _is_setting(key: str) -> bool:
    return key == "task" or is_of(key, SETTING)  # task.label_smoothing is a method


def _telling(values: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Of these keys, in their order, those that tell apart what all of them tell apart."""
    chosen: list[str] = []
    for key in keys:
        if len(values[[*chosen, key]].drop_duplicates()) > (len(values[chosen].drop_duplicates()) if chosen else 1):
            chosen.append(key)
    return chosen


def _written(values: pd.DataFrame, keys: Sequence[str], brief: bool = False) -> list[str]:
    """For each run the values of these keys in a line, or, to be brief, of as many of the first as tell it from others.

    A strategy needs no key, and what a run has not no word.
    """

    def word(key: str, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return text if key == "strategy" else f"{key}={text}"

    table = values[list(keys)].itertuples(index=False, name=None)
    rows = [[word(*pair) for pair in zip(keys, row, strict=True) if pair[1] is not None] for row in table]
    several = Counter(tuple(row[:n]) for row in set(map(tuple, rows)) for n in range(1, len(row) + 1))
    lengths = [
        next((n for n in range(1, len(row)) if brief and several[tuple(row[:n])] == 1), len(row)) for row in rows
    ]
    return [" ".join(row[:length]) for row, length in zip(rows, lengths, strict=True)]
