"""Whether two runs are the same, and if not, where they first part."""

import csv
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fl_bench.config import changes, matters
from fl_bench.errors import ConfigError
from fl_bench.results import journal

TABLES = {"metrics.csv": ("round",), "clients.csv": ("round", "client"), "partition.csv": ("client", "label")}
SURROUNDINGS = ("versions", "git_commit", "git_dirty", "hardware")


def record_of(folder: Path) -> dict[str, Any]:
    """run.json of a run; ConfigError where there is none."""
    record = journal.read(folder)
    if "config" not in record:
        raise ConfigError(f"{folder}: is not the folder of a run: it has no run.json with a config")
    return record


def differences(a: Path, b: Path) -> Iterator[str]:
    """A line for everything in which the runs in two folders differ."""
    first, second = record_of(a), record_of(b)
    for key, (x, y) in changes(first["config"], second["config"]).items():
        if matters(key):
            yield f"config: {key} is {x} and {y}"
    for name in ("data", "partition"):
        if (first["data"] or {}).get(name) != (second["data"] or {}).get(name):
            yield f"{name}: differs"
    pairs = enumerate(zip_longest(first["digests"], second["digests"]))
    if parting := next((f"round {round}" for round, (x, y) in pairs if x != y), None):
        yield f"model: differs from {parting} on ({len(first['digests'])} and {len(second['digests'])} rounds)"
    for name, keys in TABLES.items():
        yield from _rows(a / name, b / name, keys)
    yield from _tensors(a / "model.safetensors", b / "model.safetensors", "model.safetensors")
    yield from _states(a / "state", b / "state")


def drift(a: Path, b: Path) -> Iterator[str]:
    """A line for everything that was different around two runs: packages, code, hardware, and what changes no round."""
    first, second = record_of(a), record_of(b)
    for name in SURROUNDINGS:
        for key, (x, y) in changes({name: first.get(name)}, {name: second.get(name)}).items():
            yield f"{key} was {x}, now {y}"
    for key, (x, y) in changes(first["config"], second["config"]).items():
        if not matters(key):
            yield f"{key} was {x}, now {y}"


def _rows(a: Path, b: Path, keys: tuple[str, ...]) -> Iterator[str]:
    """The first row in which two tables differ."""
    if _same_bytes(a, b):
        return
    if missing := [file for file in (a, b) if not file.exists()]:
        yield f"{a.name}: is missing in {missing[0].parent}"
        return
    with a.open(newline="", errors="replace") as left, b.open(newline="", errors="replace") as right:
        tables = csv.DictReader(left), csv.DictReader(right)
        x: Mapping[str, Any]
        y: Mapping[str, Any]
        for x, y in zip_longest(*tables, fillvalue={}):
            if x != y:
                where = ", ".join(f"{key} {(x or y).get(key)}" for key in keys)
                yield f"{a.name}: {where}: {_cells(x, y)}"
                return
    yield f"{a.name}: has the same rows, written differently"


def _cells(x: Mapping[str, Any], y: Mapping[str, Any]) -> str:
    if not (x and y):
        return f"is only in the {'first' if x else 'second'}"
    return "; ".join(f"{key} is {x.get(key)} and {y.get(key)}" for key in {**x, **y} if x.get(key) != y.get(key))


def _tensors(a: Path, b: Path, name: str) -> Iterator[str]:
    """The tensors in which two files differ."""
    if _same_bytes(a, b):
        return
    try:
        x, y = load_file(a), load_file(b)
    except (FileNotFoundError, SafetensorError) as error:
        yield f"{name}: is missing or damaged: {error}"
        return
    for key in sorted({**x, **y}):
        if key not in x or key not in y:
            yield f"{name}: {key} is only in the {'first' if key in x else 'second'}"
        elif x[key].shape != y[key].shape or x[key].dtype != y[key].dtype:
            yield f"{name}: {key} is {x[key].dtype}{x[key].shape} and {y[key].dtype}{y[key].shape}"
        elif x[key].tobytes() != y[key].tobytes():
            apart = np.abs(x[key].astype(np.float64) - y[key].astype(np.float64)).max()
            yield f"{name}: {key} differs by up to {apart:.3g}"


def _states(a: Path, b: Path) -> Iterator[str]:
    """The first client that keeps something else, and how many do."""
    clients = {int(file.name) for folder in (a, b) if folder.exists() for file in folder.iterdir()}
    found = [list(_tensors(_newest(a / str(k)), _newest(b / str(k)), f"state/{k}")) for k in sorted(clients)]
    if others := [lines for lines in found if lines]:
        yield from others[0]
    if len(others) > 1:
        yield f"state: differs for {len(others)} of {len(clients)} clients"


def _newest(folder: Path) -> Path:
    """A client's state; a file that is not there where it has none."""
    return max(folder.glob("*.safetensors"), key=lambda file: int(file.stem), default=folder / "none")


def _same_bytes(a: Path, b: Path) -> bool:
    if not (a.exists() and b.exists()):
        return a.exists() == b.exists()
    return a.read_bytes() == b.read_bytes()
