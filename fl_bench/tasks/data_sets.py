"""The keys of data=disk and data=hub, the data sets of the library datasets, for all tasks that read them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fl_bench.config.rules import require
from fl_bench.data import hugging
from fl_bench.data.arrays import FederatedData


class Wanted(NamedTuple):
    """What is wanted of a data set: the names of columns, and the `size` that images are brought to."""

    label: str
    client: str | None
    image: str | None
    size: int | None
    features: list[str] | None
    text: str | None


class FromDataSets(ABC):
    """Of a task: it has `data=disk` and `data=hub`.

    Must override:
        `reads`, the keys that mean something to it, but for the label and the client; and `of_splits`.
    """

    reads: Sequence[str]

    @abstractmethod
    def of_splits(self, folder: Path, splits: hugging.Splits, wanted: Wanted) -> FederatedData:
        """The data of an open data set; large columns may be made in `folder`."""

    def load_disk(
        self,
        folder: Path,
        root: str,
        label: str,
        client: str | None,
        image: str | None,
        size: int | None,
        features: list[str] | None,
        text: str | None,
    ) -> FederatedData:
        """What datasets has saved to a folder."""
        wanted = Wanted(label, client, image, size, features, text)
        return self._read(folder, partial(hugging.on_disk, root), wanted)

    def load_hub(
        self,
        folder: Path,
        dataset: str | None,
        root: str | None,
        revision: str | None,
        subset: str | None,
        label: str,
        client: str | None,
        image: str | None,
        size: int | None,
        features: list[str] | None,
        text: str | None,
    ) -> FederatedData:
        """A data set of the hub."""
        wanted = Wanted(label, client, image, size, features, text)
        return self._read(folder, partial(hugging.on_the_hub, dataset, root, revision, subset), wanted)

    def _read(self, folder: Path, opened: Callable[[], hugging.Splits], wanted: Wanted) -> FederatedData:
        for key, value in wanted._asdict().items():
            require(f"data.{key}", value, value is None or key in ("label", "client", *self.reads), "should be None")
        return self.of_splits(folder, opened(), wanted)
