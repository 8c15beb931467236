"""What lies at a site: the rows of its own clients, in their order, as columns that a `Trainer` opens.

A site's folder is like the prepared folder of a run, but without test rows and without anybody else's. Its partition
has all clients, whose ids it keeps; those who are elsewhere hold nothing. Row numbers are the site's own.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.config.paths import INIT
from fl_bench.config.rules import MOST_CLIENTS, is_count
from fl_bench.data.arrays import CLASSES, SOURCES, Columns, FederatedData, Lookup, Ragged
from fl_bench.data.partition import UNSEEN, Partition
from fl_bench.data.split import HELD
from fl_bench.federation.parts import CONFIG
from fl_bench.storage.files import digest, digest_of

Ints = NDArray[np.int64]
NOT_THEIRS = ("train.", "test.", "partition.", CONFIG, INIT)  # how the names of files begin that no site is given so
MOST_NUMBERS = 2**28  # in a row


class Holding(NamedTuple):
    """What a client holds."""

    train: int  # rows
    heldout: int
    digest: str  # of all of them

    @property
    def hidden(self) -> "Holding":
        """The same of a client that trains where nobody is told on how many rows: 1 stands for some."""
        return Holding(1, 0, hashlib.sha256(json.dumps(self).encode()).hexdigest())


class Held(NamedTuple):
    """Prepared data, and who holds what of it."""

    data: FederatedData
    parts: Sequence[Partition]  # of those who train, and where there are some, of those who never do
    blocks: Mapping[int, slice] | None  # of columns, by client, where these hold columns; None: they hold rows

    @classmethod
    def open(cls, folder: Path) -> "Held":
        names = [name for name in ("partition", UNSEEN) if (folder / f"{name}.rows.npy").exists()]
        return cls(FederatedData.open(folder), [Partition.open(folder, name) for name in names], _blocks(folder))

    @property
    def num_clients(self) -> int:
        return sum(len(part.ends) for part in self.parts)

    def holdings(self) -> dict[int, Holding]:
        """By client: what it holds, of those who hold something."""
        found, first = {}, 0
        for part in self.parts:
            for place in np.flatnonzero(np.diff(part.starts)).tolist():
                rows = part.rows[part.starts[place] : part.starts[place + 1]]
                sizes = int(part.train_sizes[place]), int(part.heldout_sizes[place])
                found[first + place] = Holding(*sizes, _digest(self.of([first + place], [rows])))
            first += len(part.ends)
        return found

    def of(self, clients: Sequence[int], rows: Sequence[Ints]) -> Columns:
        """The training rows of each of these clients, one after another, as they have them."""
        taken = np.concatenate([np.empty(0, np.int64), *rows])
        train = {name: take(column, taken) for name, column in self.data.train.items()}
        return train if self.blocks is None else _only(train, np.repeat(self._columns(clients), [*map(len, rows)], 0))

    def tests(self, clients: Sequence[int]) -> Columns:
        """What these clients have of the test rows: nothing, unless they hold columns."""
        if self.blocks is None:
            return {}
        return _only(self.data.test, np.logical_or.reduce(self._columns(clients), keepdims=True))

    def _columns(self, clients: Sequence[int]) -> NDArray[np.bool_]:
        """Which columns each of these clients holds [clients, columns]."""
        held = np.zeros((len(clients), self.data.train["x"].shape[-1]), bool)
        for mine, client in zip(held, clients, strict=True):
            mine[(self.blocks or {}).get(client, slice(0))] = True
        return held


class Form(NamedTuple):
    """What prepared data are like, whoever holds them. It travels as JSON."""

    columns: Mapping[str, Any]  # of training rows, as `form_of` has them
    classes: list[str]
    num_clients: int  # who train, at all sites
    num_unseen: int  # who never do
    files: Mapping[str, str]  # what else there is, such as a vocabulary, by name: a digest

    @classmethod
    def of(cls, folder: Path) -> "Form":
        data, parts, _ = Held.open(folder)
        counts = [len(part.ends) for part in parts]
        return cls(form_of(data.train), list(data.classes), counts[0], sum(counts[1:]), beside(folder))


def told(fields: Sequence[Any], holdings: Mapping[str, Sequence[Any]]) -> tuple[Form, dict[int, Holding]]:
    """A form, and by client what it holds, as they come from JSON.

    Raises ValueError, TypeError or AttributeError where they are something else.
    """
    form = Form(*fields)
    clients = {int(client): Holding(*held) for client, held in holdings.items()}
    for kind, shape in form.columns.values():
        sizes = shape or []
        if np.dtype(kind).kind not in "biuf" or not all(map(is_count, sizes)) or prod(sizes) > MOST_NUMBERS:
            raise ValueError(f"there are no columns of {kind} {shape}")
    counts = [form.num_clients, form.num_unseen]
    if not all(map(is_count, counts)) or sum(counts) > MOST_CLIENTS:
        raise ValueError(f"there are no {counts} clients")
    for client, held in clients.items():
        if client not in range(sum(counts)) or not (is_count(held.train) and is_count(held.heldout)):
            raise ValueError(f"there is no such client as {client}")
    return form, clients


def form_of(columns: Columns) -> dict[str, Any]:
    """By the name of a column: the type of its numbers, and the shape of a row, None where rows differ in length."""
    found: dict[str, Any] = {}
    for name, column in columns.items():
        array = column.table if isinstance(column, Lookup) else column
        ragged = isinstance(column, Ragged)
        found[name] = [column.flat.dtype.name, None] if ragged else [array.dtype.name, list(array.shape[1:])]
    return found


def beside(folder: Path) -> dict[str, str]:
    """Digests of the files and folders that are neither rows nor of one run, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith((*NOT_THEIRS, CLASSES, SOURCES)):
            files = sorted(path.resolve().rglob("*")) if path.is_dir() else [path]
            found[path.name] = digest(*(digest_of(file).encode() for file in files if file.is_file()))
    return found


def share(source: Path, folder: Path, clients: Sequence[int]) -> None:
    """Write to the new `folder` what these clients hold of the prepared data in `source`."""
    held = Held.open(source)
    folder.mkdir(parents=True)
    for path in source.iterdir():  # a vocabulary, a pretrained model
        if not path.name.startswith(NOT_THEIRS):
            copy: Any = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, folder / path.name)
    parts: list[Partition] = []
    rows: list[Ints] = []
    holders: list[int] = []
    first = 0
    for part in held.parts:
        mine = np.isin(np.arange(first, first + len(part.ends)), clients)
        sizes, trained = np.diff(part.starts) * mine, part.train_sizes * mine
        starts = np.concatenate(([0], np.cumsum(sizes)))
        before = sum(map(len, rows))
        rows += [part.rows[part.starts[place] : part.starts[place + 1]] for place in np.flatnonzero(mine)]
        holders += (first + np.flatnonzero(mine)).tolist()
        parts.append(Partition(before + np.arange(starts[-1]), starts, starts[:-1] + trained))
        first += len(part.ends)
    for name, part in zip(("partition", UNSEEN), parts, strict=False):
        part.save(folder, name)
    train = held.of(holders, rows)
    FederatedData(train, held.tests(holders), held.data.classes, sources=held.data.sources).save(folder)


def take(column: Any, rows: Ints) -> Any:
    """These rows of a column, without what is nobody's of them."""
    if isinstance(column, Lookup):
        places, index = np.unique(column.index[rows], return_inverse=True)
        return Lookup(np.asarray(column.table[places]), index)
    if isinstance(column, Ragged):
        lengths = np.diff(column.offsets)[rows]
        pieces = [column.flat[column.offsets[row] : column.offsets[row + 1]] for row in rows]
        flat = np.concatenate([np.empty(0, column.flat.dtype), *pieces])
        return Ragged(flat, np.concatenate(([0], np.cumsum(lengths))))
    return np.array(column[rows])


def _blocks(folder: Path) -> dict[int, slice] | None:
    """What a prepared folder says of who holds which columns."""
    if not (file := folder / HELD).exists():
        return None
    with file.open(newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if line["client"].isdigit()]
    return {int(line["client"]): slice(int(line["first_column"]), int(line["last_column"]) + 1) for line in lines}


def _only(rows: Columns, held: NDArray[np.bool_]) -> Columns:
    """Rows with 0 in place of labels, and of what is not `held` [N or 1, columns] of them."""
    x = _values(rows["x"])
    mask = held.reshape(len(held), *(1 for _ in x.shape[2:]), held.shape[1])
    return {name: np.where(mask, x, 0) if name == "x" else np.zeros_like(_values(rows[name])) for name in rows}


def _digest(columns: Columns) -> str:
    """Of what these rows are, however their columns are stored."""
    parts: list[Any] = []
    for name in sorted(columns):
        column = columns[name]
        arrays = [column.flat, column.offsets] if isinstance(column, Ragged) else [_values(column)]
        parts += [part for a in arrays for part in (f"{name} {a.dtype} {a.shape}".encode(), np.ascontiguousarray(a))]
    return digest(*parts)


def _values(column: Any) -> NDArray:
    """The rows of a column as an array."""
    return column[np.arange(len(column))] if isinstance(column, Lookup) else column
