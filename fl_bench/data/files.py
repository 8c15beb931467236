"""A table of one's own, in CSV or Parquet files: which column is the label, and which says whose a row is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fl_bench.build import nearest
from fl_bench.data.arrays import FederatedData
from fl_bench.data.tables import every_nth, features_of, federated
from fl_bench.data.texts import Texts
from fl_bench.errors import ConfigError, disk_trouble

READERS: dict[str, Callable[[Path], pd.DataFrame]] = {"csv": pd.read_csv, "parquet": pd.read_parquet}
MOST_CLASSES = 100
TEST = "test"  # the name of the file, without its suffix, whose rows are the test set


class Labelled(NamedTuple):
    """A table, its labels `y` [N], whose its rows are, `source` [N], and whether each is for the test set [N]."""

    table: pd.DataFrame
    y: np.ndarray
    classes: list[str]
    is_test: np.ndarray
    source: np.ndarray | None
    sources: list[str]


def table_of_files(
    kind: str, root: str, label: str, client: str | None, features: Sequence[str] | None
) -> FederatedData:
    """The rows that `labelled` finds, as `features_of` makes them: of the columns `features`, or all others.

    Raises:
        ConfigError: where a file or a column is not there or not readable, or labels are no classes.
    """
    found = labelled(kind, root, label, client, {"data.features": features or []})
    if features is not None and (label in features or not features):
        raise ConfigError(f"data.features={list(features)}: must name columns other than the label")
    table, y, classes, is_test, source, sources = found
    rest = [str(name) for name in table.columns if name not in (label, client)]
    return federated(features_of(table[list(features or rest)], is_test), y, is_test, classes, source, sources)


def texts_of_files(kind: str, root: str, text: str, label: str, client: str | None) -> Texts:
    """The rows that `labelled` finds, of which column `text` has the texts.

    Raises:
        ConfigError: as for `table_of_files`, or where a text is missing, empty or none.
    """
    table, y, classes, is_test, source, sources = labelled(kind, root, label, client, {"data.text": [text]})
    texts = table[text].tolist()
    if text in (label, client):
        raise ConfigError(f"data.text={text}: must name another column than data.label and data.client")
    if lacking := int(table[text].isna().sum()):
        raise ConfigError(f"data.text={text}: {lacking} rows have no value there; remove them")
    if not all(isinstance(value, str) for value in texts):
        raise ConfigError(f"data.text={text}: must be a column of texts, and has {table[text].dtype}")
    if empty := sum(not value.strip() for value in texts):
        raise ConfigError(f"data.text={text}: {empty} rows have an empty text; remove them")
    return Texts(texts, y, classes, is_test, source, sources)


def labelled(kind: str, root: str, label: str, client: str | None, others: Mapping[str, Sequence[str]]) -> Labelled:
    """The rows of the file `root`, or of all files *.`kind` in that folder, with the columns `others`, by their key.

    Classes are the values of column `label`, sources those of column `client`. The rows of the file test.`kind` are
    the test set; without one, every tenth row is, as `every_nth` chooses by client and label.
    """
    table, is_test = _read(kind, root)
    for key, names in {"data.label": [label], "data.client": [] if client is None else [client], **others}.items():
        _require_columns(key, names, table)
    y, classes = _groups(f"data.label={label}", table[label])
    if not 2 <= len(classes) <= MOST_CLASSES:
        wish = f"must have from 2 to {MOST_CLASSES} different values, the classes, and has {len(classes)}"
        raise ConfigError(f"data.label={label}: {wish}")
    source, sources = _groups(f"data.client={client}", table[client]) if client is not None else (None, [])
    if is_test is None:
        is_test = every_nth([y] if source is None else [source, y], nth=10)
    if not (is_test.any() and not is_test.all()):
        raise ConfigError(f"data.root={root}: has {len(table)} rows; some must be left to train, and some to test")
    if only := set(y[is_test]) - set(y[~is_test]):
        raise ConfigError(f"data.label={label}: only the test set has the class {classes[min(only)]}; give more rows")
    return Labelled(table, y, classes, is_test, source, sources)


def _read(kind: str, root: str) -> tuple[pd.DataFrame, np.ndarray | None]:
    """All rows, and whether each is from the file of the test set, where there is one."""
    path = Path(root)
    files = sorted(path.glob(f"*.{kind}")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise ConfigError(f"data.root={root}: is neither a file nor a folder with files *.{kind}")
    tables = []
    for file in files:
        try:
            tables.append(READERS[kind](file))
        except Exception as error:  # at files that are not what they should be, the readers raise a dozen kinds
            if disk_trouble(error):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"data.root={root}: {file.name} cannot be read as {kind} ({reason})") from error
        if missing := set(tables[0].columns) ^ set(tables[-1].columns):
            raise ConfigError(f"data.root={root}: {files[0].name} and {file.name} differ in column {min(missing)}")
    is_test = np.repeat([file.stem == TEST for file in files], [len(table) for table in tables])
    return pd.concat(tables, ignore_index=True), is_test if TEST in {file.stem for file in files} else None


def _require_columns(key: str, names: Iterable[str], table: pd.DataFrame) -> None:
    for name in names:
        if name not in table.columns:
            raise ConfigError(f"{key}={name}: the table has no such column; {nearest(name, map(str, table.columns))}")


def _groups(key: str, column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The number of each row's value [N], and the values in order; a ConfigError where one is missing or a fraction."""
    if lacking := int(column.isna().sum()):
        raise ConfigError(f"{key}: {lacking} rows have no value there; remove them")
    if pd.api.types.is_float_dtype(column):
        if not (column % 1 == 0).all():
            raise ConfigError(f"{key}: has fractions; must be whole numbers or texts (there is no regression yet)")
        column = column.astype(np.int64)
    if not pd.api.types.is_integer_dtype(column):
        column = column.astype(str)
    numbers, values = pd.factorize(column, sort=True)
    return numbers, [str(value) for value in values]
