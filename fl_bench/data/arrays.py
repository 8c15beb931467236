"""The data of an experiment as columns of equal length, written once and memory-mapped by every process."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray]  # a row is an example: images uint8 [N, ...], labels int64 [N], ...


@dataclass(frozen=True)
class FederatedData:
    """Training rows, which the partition shares out over the clients, and the server's own test rows."""

    train: Columns
    test: Columns
    classes: tuple[str, ...] = ()  # the names of the values of column "y", where the task has labels

    @property
    def num_samples(self) -> int:
        return len(next(iter(self.train.values())))

    def save(self, folder: Path) -> None:
        """Write every column to `folder`, but for those that already live there (see `new_column`)."""
        for split, columns in (("train", self.train), ("test", self.test)):
            for name, column in columns.items():
                file = folder / f"{split}.{name}.npy"
                if not (isinstance(column, np.memmap) and file.exists()):
                    np.save(file, column)
        (folder / "classes.json").write_text(json.dumps(self.classes))

    @classmethod
    def open(cls, folder: Path) -> "FederatedData":
        """The columns of `folder`, mapped read-only: pages are shared by all processes and read on demand."""
        splits: dict[str, dict[str, NDArray]] = {"train": {}, "test": {}}
        for file in sorted(folder.glob("t*.*.npy")):
            split, name = file.stem.split(".")
            splits[split][name] = np.load(file, mmap_mode="r")
        return cls(**splits, classes=tuple(json.loads((folder / "classes.json").read_text())))


def new_column(folder: Path, split: str, name: str, shape: tuple[int, ...], dtype: type) -> NDArray:
    """An empty column on disk, to be filled piece by piece where the whole would not fit in memory."""
    return np.lib.format.open_memmap(folder / f"{split}.{name}.npy", mode="w+", dtype=dtype, shape=shape)
