"""The data of an experiment as columns of equal length, written once and memory-mapped by every process."""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fl_bench.errors import FULL

Ints = NDArray[np.int64]
PADDING = -1
CLASSES, SOURCES = "classes.json", "sources.json"


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is flat[offsets[i]:offsets[i + 1]].

    Examples:
        >>> tokens = Ragged.of([[1, 2, 3], [4], [5, 6]])
        >>> len(tokens), tokens[np.array([1, 2])].tolist()
        (3, [[4, -1], [5, 6]])
    """

    flat: NDArray
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        """From rows of integers, which are stored as int32."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        flat = np.fromiter((value for row in rows for value in row), dtype=np.int32, count=lengths.sum())
        return cls(flat, np.concatenate(([0], np.cumsum(lengths))))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: NDArray) -> NDArray:
        """These rows as int64 [len(rows), longest of them], filled up with PADDING."""
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        places = starts[:, None] + np.arange((ends - starts).max())
        inside = places < ends[:, None]
        return np.where(inside, self.flat[np.where(inside, places, 0)], PADDING).astype(np.int64)


@dataclass(frozen=True)
class Lookup:
    """Rows that share large values: row i is table[index[i]].

    Examples:
        >>> images = Lookup(table=np.array([[0.5], [1.5]]), index=np.array([1, 1, 0]))
        >>> len(images), images[np.array([0, 2])].tolist()
        (3, [[1.5], [0.5]])
    """

    table: NDArray
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: NDArray) -> NDArray:
        found: NDArray = self.table[self.index[rows]]
        return found


@dataclass(frozen=True)
class Windows:
    """Rows of equal length that overlap in one flat array: row i is flat[starts[i]:starts[i] + length].

    Examples:
        >>> windows = Windows(np.array([1, 2, 3, 4]), starts=np.array([0, 2, 1]), length=np.array(2))
        >>> len(windows), windows[np.array([1, 2])].tolist()
        (3, [[3, 4], [2, 3]])
    """

    flat: NDArray
    starts: NDArray[np.int64]
    length: NDArray[np.int64]  # []

    @property
    def dtype(self) -> np.dtype:
        """That of a row."""
        return self.flat.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """As of an array that has all rows."""
        return len(self.starts), int(self.length)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: NDArray) -> NDArray:
        found: NDArray = self.flat[self.starts[rows][:, None] + np.arange(int(self.length))]
        return found


def rows_of(columns: "Columns", rows: NDArray) -> "Columns":
    """These rows of columns, without a copy of what is large."""
    flat = {name for name, column in columns.items() if isinstance(column, np.ndarray) and column.ndim == 1}
    return {name: column[rows] if name in flat else Lookup(column, rows) for name, column in columns.items()}


KINDS: tuple[type[Ragged] | type[Lookup] | type[Windows], ...] = (Ragged, Lookup, Windows)
Column = NDArray | Ragged | Lookup | Windows
Columns = Mapping[str, Any]  # of Column; a row is an example: images uint8 [N, ...], labels int64 [N], ...


@dataclass(frozen=True)
class FederatedData:
    """Training rows, which the partition shares out over the clients, and the server's own test rows.

    Columns are arrays [N, ...], or one of KINDS, of equal length within a split. Both splits have the same names.

    Examples:
        >>> columns = {"x": np.zeros((4, 2), np.float32), "y": np.array([0, 1, 1, 0])}
        >>> FederatedData(train=columns, test=columns, classes=("no", "yes")).num_samples
        4
    """

    train: Columns
    test: Columns
    classes: tuple[str, ...]  # the names of the values of column "y"; a single one where there are no labels
    folder: Path = Path()  # where it was opened from; a task may keep a pretrained model there too
    sources: tuple[str, ...] = ()  # the names of the values of column "source", where they have names

    @property
    def num_samples(self) -> int:
        """How many training rows there are."""
        return len(next(iter(self.train.values())))

    @property
    def num_tests(self) -> int:
        """How many test rows there are: none at a site of a deployment, and where nobody has given the server some."""
        return len(next(iter(self.test.values()), ()))

    def save(self, folder: Path) -> None:
        """Write every array to `folder`, but for those that already live there (see `new_column`)."""
        for split, columns in (("train", self.train), ("test", self.test)):
            for name, column in columns.items():
                for part, array in vars(column).items() if isinstance(column, KINDS) else [("", column)]:
                    if getattr(array, "filename", None) is None:  # a copy of an np.memmap is one too, with no file
                        new_column(folder, split, name, array.shape, array.dtype, part)[...] = array
        with writing_into(folder):
            for name, texts in {CLASSES: self.classes, **({SOURCES: self.sources} if self.sources else {})}.items():
                (folder / name).unlink(missing_ok=True)  # it may be a link to what is to stay
                (folder / name).write_text(json.dumps(texts))

    @classmethod
    def open(cls, folder: Path, writes_again: bool = True) -> "FederatedData":
        """The columns of `folder`, mapped read-only: pages are shared by all processes and read on demand.

        `save` writes them again, or does not.
        """
        read = open_array if writes_again else partial(np.load, mmap_mode="r")
        parts: dict[tuple[str, str], dict[str, NDArray]] = {}
        for file in sorted(folder.glob("t*.*.npy")):
            split, name, part = file.stem.split(".")
            parts.setdefault((split, name), {})[part] = read(file)
        splits: dict[str, dict[str, Column]] = {"train": {}, "test": {}}
        for (split, name), arrays in parts.items():
            kinds = [kind for kind in KINDS if kind.__dataclass_fields__.keys() == arrays.keys()]
            splits[split][name] = kinds[0](**arrays) if kinds else arrays[""]
        classes = json.loads((folder / CLASSES).read_text())
        sources = json.loads((folder / SOURCES).read_text()) if (folder / SOURCES).exists() else ()
        return cls(**splits, classes=tuple(classes), folder=folder, sources=tuple(sources))


def open_array(file: Path) -> NDArray:
    """An array mapped read-only, as a plain ndarray: to index an np.memmap costs more each time."""
    return np.asarray(np.load(file, mmap_mode="r"))


def new_column(
    folder: Path, split: str, name: str, shape: tuple[int, ...], dtype: DTypeLike, part: str = ""
) -> NDArray:
    """An empty column, or part of one, on disk: filled piece by piece where the whole would not fit in memory.

    `folder` is that given to a task's `load_<source>`; `split` is "train" or "test"; `part` is the field of one of
    KINDS that the array becomes.
    """
    return new_array(folder / f"{split}.{name}.{part}.npy", shape, dtype)


def new_array(file: Path, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """An empty array in a new file, which has its room on the disk: where that is full, a mapped file kills who writes.

    Where the file was a link, what it led to stays as it is.

    Raises:
        OSError: where there is no room.
    """
    with writing_into(file.parent):
        file.unlink(missing_ok=True)
        array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with file.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    return array


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Where the disk of a run's temporary folder is full, raise an OSError that says so, whoever was writing."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None) or errno.ENOSPC
        # Those of libraries in Rust are no OSError, and have the system's words in them.
        if getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error):
            raise OSError(number, os.strerror(number), str(folder)) from error
        raise


def pieces(rows: NDArray, size: int) -> list[NDArray]:
    """Rows in their order, so many at a time; the last piece may be short, and is empty where there are none."""
    return np.split(rows, range(size, len(rows), size))


def batches(rows: NDArray, size: int, generator: np.random.Generator) -> Iterator[NDArray]:
    """Batches of rows without end; each epoch is shuffled anew, and its last batch may be short."""
    while True:
        yield from pieces(generator.permutation(rows), size)
