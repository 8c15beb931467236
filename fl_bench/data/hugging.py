"""Data sets of the library datasets: by name on the hub, in a folder of files, or as save_to_disk has written them."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_bench.build import nearest
from fl_bench.config.rules import require
from fl_bench.data.arrays import FederatedData
from fl_bench.data.fetch import use_cache_when_offline
from fl_bench.data.files import groups, table_of_rows, texts_in, texts_of_rows
from fl_bench.data.labelled import labelled_images
from fl_bench.data.texts import Texts
from fl_bench.errors import ConfigError, StorageError, disk_trouble, note

TESTS = ("test", "validation")  # the first of these splits that there is becomes the test set
NAME = re.compile(r"[\w.-]+/[\w.-]+")  # on the hub; datasets also has formats by name, which read this folder
ROWS = 1000  # that are in memory at a time


class Splits(NamedTuple):
    """A data set that is open: its rows stay on the disk until they are asked for."""

    where: str  # the user's key, with which errors begin
    parts: Sequence[Any]  # datasets.Dataset: those to train, and those to test where the set has some of its own

    def is_test(self) -> NDArray[np.bool_] | None:
        """Whether each row [N] is one to test; None where nothing says so."""
        return np.repeat([False, True], [len(part) for part in self.parts]) if len(self.parts) == 2 else None

    def require(self, key: str, name: str) -> None:
        """Raise ConfigError where there is no column of this name, the value of `key`."""
        for part in self.parts:
            if name not in part.column_names:
                raise ConfigError(f"{key}={name}: the data has no such column; {nearest(name, part.column_names)}")

    def column(self, name: str) -> Iterator[Any]:
        """The values of a column, row by row: texts, numbers, or {bytes, path} of images, which are not decoded."""
        import datasets

        for part in self.parts:
            chosen = part.select_columns([name])
            if isinstance(chosen.features[name], datasets.Image):
                chosen = chosen.cast_column(name, datasets.Image(decode=False))
            for chunk in chosen.with_format("arrow").iter(ROWS):
                yield from chunk.column(name).to_pylist()

    def table(self, names: Sequence[str]) -> pd.DataFrame:
        """These columns of all rows; the numbers of classes that have names become those names."""
        import datasets

        tables = []
        for part in self.parts:
            table: pd.DataFrame = part.select_columns(list(names)).with_format("arrow")[:].to_pandas()
            for name in names:
                if isinstance(kind := part.features[name], datasets.ClassLabel):
                    codes = table[name].fillna(-1).astype(np.int64)
                    table[name] = pd.Categorical.from_codes(codes, kind.names)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)


def on_disk(root: str) -> Splits:
    """What Dataset.save_to_disk or DatasetDict.save_to_disk has written to the folder `root`."""
    import datasets

    return _splits(f"data.root={root}", lambda: datasets.load_from_disk(root))


def on_the_hub(dataset: str | None, root: str | None, revision: str | None, subset: str | None) -> Splits:
    """The data set `dataset`, OWNER/NAME, of the Hugging Face hub, or the files of one in the folder `root`.

    Nothing that comes with it is run. What has been downloaded, or made of the files, stays in the library's own cache.
    """
    if (dataset is None) == (root is None):
        raise ConfigError(f"data.dataset={dataset}: give either data.dataset=OWNER/NAME or data.root=FOLDER")
    if dataset is not None and (not NAME.fullmatch(dataset) or Path(dataset).exists()):  # which datasets would read
        raise ConfigError(f"data.dataset={dataset}: must be OWNER/NAME on the hub; a folder here is data.root=FOLDER")
    if root is not None and not Path(root).is_dir():
        raise ConfigError(f"data.root={root}: is not a folder")
    if root is None:
        use_cache_when_offline()
    import datasets  # from version 4 on it runs no code that comes with the data

    name = str(Path(root).resolve()) if root else dataset
    where = f"data.root={root}" if root else f"data.dataset={dataset}"
    hint = "" if root else "; or give data.root=FOLDER with its files"
    return _splits(where, lambda: datasets.load_dataset(name, name=subset, revision=revision), hint)


def images_of(
    splits: Splits, folder: Path, image: str | None, label: str, client: str | None, size: int | None
) -> FederatedData:
    """The images in column `image`, or in the only one that has images; see `labelled_images`.

    Raises:
        ConfigError: where a column is not there, or has something else.
    """
    import datasets

    if image is None:
        features = splits.parts[0].features.items()
        having = [name for name, kind in features if isinstance(kind, datasets.Image)]
        if len(having) != 1:
            has = ", ".join(having) or f"none of {', '.join(splits.parts[0].column_names)}"
            raise ConfigError(f"data.image=null: name the column of images; those known to have some: {has}")
        (image,) = having
    names = {"data.image": image, "data.label": label} | ({} if client is None else {"data.client": client})
    for key, name in names.items():
        splits.require(key, name)
    table = splits.table([name for key, name in names.items() if key != "data.image"])
    y, classes = groups(f"data.label={label}", table[label])
    source, sources = groups(f"data.client={client}", table[client]) if client is not None else (None, [])
    pictures = _Pictures(splits, image)
    return labelled_images(splits.where, folder, pictures, size, y, splits.is_test(), classes, source, sources)


def rows_of(splits: Splits, label: str, client: str | None, features: Sequence[str] | None) -> FederatedData:
    """The rows as those of a table, see `table_of_rows`."""
    wanted = None if features is None else [*features, label, *([client] if client is not None else [])]
    return table_of_rows(*_rows(splits, wanted), label, client, features)[0]


def texts_of(splits: Splits, text: str | None, label: str, client: str | None) -> Texts:
    """The rows of which column `text` has the texts, see `texts_of_rows`."""
    if text is None:
        raise ConfigError("data.text=null: must name the column with the texts")
    return texts_of_rows(*_rows(splits, [text, label, *([client] if client is not None else [])]), text, label, client)


def said_by(splits: Splits, text: str | None, client: str | None) -> tuple[list[str], NDArray, list[str]]:
    """The texts in column `text`, in their order, and who says each: its number [N], and the names in column `client`.

    Raises:
        ConfigError: where a column is not named or not there, or a text is missing, empty or none.
    """
    for key, name in {"data.text": text, "data.client": client}.items():
        if name is None:
            raise ConfigError(f"{key}=null: must name a column: of texts, and of who says each")
        splits.require(key, name)
    if splits.is_test() is not None:
        note(f"{splits.where}: texts of both splits are taken, and a part of each client's is the test set")
    _, table, _ = _rows(splits, [str(text), str(client)])
    return texts_in(table, str(text)), *groups(f"data.client={client}", table[client])


def _rows(splits: Splits, wanted: Sequence[str] | None) -> tuple[str, pd.DataFrame, NDArray[np.bool_] | None]:
    """The columns `wanted` of all rows, or all columns, and which rows are to test, if something says so."""
    names = splits.parts[0].column_names
    for part in splits.parts[1:]:
        if other := set(names) ^ set(part.column_names):
            raise ConfigError(f"{splits.where}: its splits differ in column {min(other)}")
    table = splits.table([name for name in dict.fromkeys(wanted or names) if name in names])
    return splits.where, table, splits.is_test()


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
    def of_splits(self, folder: Path, splits: Splits, wanted: Wanted) -> FederatedData:
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
        return self._read(folder, partial(on_disk, root), wanted)

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
        return self._read(folder, partial(on_the_hub, dataset, root, revision, subset), wanted)

    def _read(self, folder: Path, opened: Callable[[], Splits], wanted: Wanted) -> FederatedData:
        for key, value in wanted._asdict().items():
            require(f"data.{key}", value, value is None or key in ("label", "client", *self.reads), "should be None")
        return self.of_splits(folder, opened(), wanted)


class _Pictures:
    """The images of a column and what errors call them; they can be gone through again."""

    def __init__(self, splits: Splits, name: str) -> None:
        self.splits, self.name = splits, name

    def __iter__(self) -> Iterator[tuple[str, Path | bytes]]:
        for number, value in enumerate(self.splits.column(self.name)):
            found = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
            if isinstance(found, str) and isinstance(value, dict):
                found = Path(found)
            if not isinstance(found, bytes | Path):
                raise ConfigError(f"data.image={self.name}: row {number} has no image, nor the bytes of a file of one")
            yield f"row {number}", found


def _splits(where: str, load: Callable[[], Any], hint: str = "") -> Splits:
    """What `load` gives, with what goes wrong in one line that begins with `where` and ends with `hint`."""
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong, we say ourselves
    datasets.disable_progress_bars()
    try:
        loaded = load()
    except Exception as error:  # at files that are not what they should be, datasets raises a dozen kinds
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        if trouble := disk_trouble(cause):
            raise StorageError(trouble) from error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise ConfigError(f"{where}: cannot be loaded ({reason}){hint}") from error
    if isinstance(loaded, datasets.Dataset):
        return Splits(where, [loaded])
    if "train" not in loaded:
        raise ConfigError(f"{where}: has no split train, but {', '.join(map(str, loaded)) or 'none'}")
    test = [name for name in TESTS if name in loaded][:1]
    if test == ["validation"]:
        note(f"{where}: has no split test: validation is the test set")
    return Splits(where, [loaded[name] for name in ("train", *test)])
