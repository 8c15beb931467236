"""Whether two runs are the same, and if not, where they first differ."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from fl_bench.config.changes import apart, changes, flat, matters, shown
from fl_bench.config.rules import at_sites
from fl_bench.storage import run_json
from fl_bench.storage.files import digest_of
from fl_bench.storage.folder import is_number

TABLES = {"metrics.csv": ("round",), "clients.csv": ("round", "client"), "partition.csv": ("client", "label")}
DERIVED = {"per_class.csv": ("class",), "confusion.csv": ("label", "predicted")}  # older runs have none
SURROUNDINGS = ("versions", "git_commit", "git_dirty", "hardware")


def differences(a: Path, b: Path) -> Iterator[str]:
    """A line for everything in which the runs in two folders differ."""
    first, second = run_json.read_run(a), run_json.read_run(b)
    for key, (x, y) in _changes(first, second).items():
        if matters(key):
            yield f"config: {key} is {shown(x)} and {shown(y)}"
    for name in apart(first["data"] or {}, second["data"] or {}):
        yield f"{name}: differs"
    if first["status"] != second["status"]:
        yield f"status: is {first['status']} and {second['status']}"
    if not (first["digests"] or second["digests"]):
        yield "model: neither run has come to one"
    pairs = enumerate(zip_longest(first["digests"], second["digests"]))
    if parting := next((f"round {round}" for round, (x, y) in pairs if x != y), None):
        yield f"model: differs from {parting} on ({len(first['digests'])} and {len(second['digests'])} models)"
    for name, keys in TABLES.items():
        yield from _rows(a / name, b / name, keys)
    for name, keys in DERIVED.items():
        if (a / name).exists() and (b / name).exists():
            yield from _rows(a / name, b / name, keys)
    yield from _tensors(a / "model.safetensors", b / "model.safetensors", "model.safetensors")
    if not any(at_sites(record["config"]) for record in (first, second)):
        yield from _states(a / "state", b / "state")


def left_out(a: Path, b: Path) -> Iterator[str]:
    """A line for what of two runs cannot be compared."""
    there = [at_sites(run_json.read_run(folder)["config"]) for folder in (a, b)]
    if all(there) or (any(there) and any((folder / "state").exists() for folder in (a, b))):
        yield "state: what clients keep lies at the sites"


def drift(a: Path, b: Path) -> Iterator[str]:
    """A line for everything that was different around two runs: packages, code, hardware, and what changes no round."""
    first, second = run_json.read_run(a), run_json.read_run(b)
    for name in SURROUNDINGS:
        for key, (x, y) in apart(flat({name: first.get(name)}), flat({name: second.get(name)})).items():
            yield f"{key} was {shown(x)}, now {shown(y)}"
    for key, (x, y) in _changes(first, second).items():
        if not matters(key):
            yield f"{key} was {shown(x)}, now {shown(y)}"


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return changes(a["config"], b["config"], a.get("choices"), b.get("choices"))


def _rows(a: Path, b: Path, keys: Sequence[str]) -> Iterator[str]:
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
        try:
            for x, y in zip_longest(*tables, fillvalue={}):
                if x != y:
                    yield f"{a.name}: {_cells(x, y, keys)}"
                    return
        except csv.Error as error:
            yield f"{a.name}: differs, and one cannot be read: {error}"
            return
    yield f"{a.name}: has the same rows, written differently"


def _cells(x: Mapping[str, Any], y: Mapping[str, Any], keys: Sequence[str]) -> str:
    """How two rows differ; where they are of different clients or rounds, the one that comes first is the odd one."""
    first, second = (tuple(_number(row.get(key) or "") for key in keys) for row in (x, y))
    if first != second:
        only_first = bool(x) and (not y or first < second)
        return f"{_where(x if only_first else y, keys)}: is only in the {'first' if only_first else 'second'}"
    cells = (f"{key} is {x.get(key)} and {y.get(key)}" for key in {**x, **y} if x.get(key) != y.get(key))
    return f"{_where(x, keys)}: {'; '.join(cells)}"


def _where(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {row.get(key)}" for key in keys)


def _number(text: str) -> tuple[int, str]:
    """For sorting as the tables are: numbers as numbers."""
    return (int(text), "") if is_number(text) else (0, text)


def _tensors(a: Path, b: Path, name: str) -> Iterator[str]:
    """The tensors in which two files differ; of which run a state is, newer versions may say otherwise."""
    if _same_bytes(a, b):
        return
    try:
        x, y = load_file(a), load_file(b)
    except (FileNotFoundError, SafetensorError, MemoryError) as error:
        yield f"{name}: is missing or damaged: {error}"
        return
    except (TypeError, AttributeError) as error:  # of bfloat16, of float8
        yield f"{name}: differs, and NumPy cannot say how: {error}"
        return
    found = list(filter(None, (_apart(key, x.get(key), y.get(key)) for key in sorted({**x, **y}))))
    found = found or ([] if name.startswith("state/") else ["has the same tensors, written differently"])
    yield from (f"{name}: {line}" for line in found)


def _apart(key: str, x: NDArray | None, y: NDArray | None) -> str | None:
    """How two tensors differ."""
    if x is None or y is None:
        return f"{key} is only in the {'second' if x is None else 'first'}"
    if x.shape != y.shape or x.dtype != y.dtype:
        return f"{key} is {x.dtype}{x.shape} and {y.dtype}{y.shape}"
    if x.tobytes() == y.tobytes():
        return None
    return f"{key} differs by up to {np.abs(x.astype(np.float64) - y.astype(np.float64)).max():.3g}"


def _states(a: Path, b: Path) -> Iterator[str]:
    """The first client that keeps something else, and how many do."""
    clients = {
        int(file.name) for folder in (a, b) if folder.exists() for file in folder.iterdir() if is_number(file.name)
    }
    found = [list(_state(_newest(a / str(k)), _newest(b / str(k)), f"state/{k}")) for k in sorted(clients)]
    if others := [lines for lines in found if lines]:
        yield from others[0]
    if len(others) > 1:
        yield f"state: differs for {len(others)} of {len(clients)} clients"


def _state(a: Path, b: Path, name: str) -> Iterator[str]:
    """How two states of a client differ: in whose they are, and in their tensors."""
    x, y = _whose(a), _whose(b)
    yield from (f"{name}: {key} is {x[key]} and {y[key]}" for key in x if key in y and x[key] != y[key])
    yield from _tensors(a, b, name)


def _whose(file: Path) -> dict[str, Any]:
    """Of which client and round a file says that it is, as far as it does; nothing where it is missing or damaged."""
    try:
        with safe_open(file, "numpy") as opened:
            note = opened.metadata()["fl-bench"]  # see storage/sealed.py, which imports torch
        facts = json.loads(note.split(" ", 2)[2]) or {}  # older versions have none
        return {"file": file.name} | {key: facts[key] for key in ("client", "round") if key in facts}
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _newest(folder: Path) -> Path:
    """A client's state; a file that is not there where it has none."""
    files = (file for file in folder.glob("*.safetensors") if is_number(file.stem))
    return max(files, key=lambda file: int(file.stem), default=folder / "none")


def _same_bytes(a: Path, b: Path) -> bool:
    if not (a.exists() and b.exists()):
        return a.exists() == b.exists()
    return a.stat().st_size == b.stat().st_size and digest_of(a) == digest_of(b)
