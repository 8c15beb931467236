"""A table of one's own, in CSV or Parquet files: which column is the label, and which says whose a row is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_bench.build import nearest
from fl_bench.data.arrays import FederatedData
from fl_bench.data.tables import features_of, federated, test_rows
from fl_bench.errors import ConfigError, disk_trouble

READERS: dict[str, Callable[..., pd.DataFrame]] = {"csv": pd.read_csv, "parquet": pd.read_parquet}
MOST_CLASSES = 100
TEST = "test"  # the name of the file, without its suffix, whose rows are the test set


def table_of_files(
    kind: str, root: str, label: str, client: str | None, features: Sequence[str] | None, **options: Any
) -> FederatedData:
    """The rows of the file `root`, or of all files *.`kind` in that folder, as `features_of` makes them.

    Classes are the values of column `label`, sources those of column `client`; features are the columns `features`, or
    all others. The rows of the file test.`kind` are the test set; without one, every tenth row is, as `every_nth`
    chooses by client and label. `options` are for the reader of pandas.

    Raises:
        ConfigError: where a file or a column is not there or not readable, or labels are no classes.
    """
    return table_of_rows(f"data.root={root}", *_read(kind, root, options), label, client, features)


def table_of_rows(
    where: str,
    table: pd.DataFrame,
    is_test: NDArray[np.bool_] | None,
    label: str,
    client: str | None,
    features: Sequence[str] | None,
) -> FederatedData:
    """The rows of `table`, of which `is_test` [N] says which are to test; see `table_of_files`.

    Raises:
        ConfigError: beginning with `where` or with the key of a column, where something is wrong with it.
    """
    rest = [str(name) for name in table.columns if name not in (label, client)]
    _require_columns("data.label", [label], table)
    _require_columns("data.client", [client] if client is not None else [], table)
    _require_columns("data.features", features or [], table)
    if features is not None and (label in features or not features):
        raise ConfigError(f"data.features={list(features)}: must name columns other than the label")
    y, classes = groups(f"data.label={label}", table[label])
    if not 2 <= len(classes) <= MOST_CLASSES:
        wish = f"must have from 2 to {MOST_CLASSES} different values, the classes, and has {len(classes)}"
        raise ConfigError(f"data.label={label}: {wish}")
    source, sources = groups(f"data.client={client}", table[client]) if client is not None else (None, [])
    is_test = test_rows(where, y, source, classes, is_test)
    x = features_of(table[list(features or rest)], is_test)
    return federated(x, y, is_test, classes, source, sources)


def _read(kind: str, root: str, options: Mapping[str, Any]) -> tuple[pd.DataFrame, np.ndarray | None]:
    """All rows, and whether each is from the file of the test set, where there is one."""
    path = Path(root)
    files = sorted(path.glob(f"*.{kind}")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise ConfigError(f"data.root={root}: is neither a file nor a folder with files *.{kind}")
    tables = []
    for file in files:
        try:
            tables.append(READERS[kind](file, **options).rename(columns=lambda name: str(name).strip()))
        except Exception as error:  # at files that are not what they should be, the readers raise a dozen kinds
            if disk_trouble(error):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"data.root={root}: {file.name} cannot be read as {kind} ({reason})") from error
        if (twice := tables[-1].columns[tables[-1].columns.duplicated()]).size:
            raise ConfigError(f"data.root={root}: {file.name} has two columns {twice[0]}")
        if missing := set(tables[0].columns) ^ set(tables[-1].columns):
            raise ConfigError(f"data.root={root}: {files[0].name} and {file.name} differ in column {min(missing)}")
    is_test = np.repeat([file.stem == TEST for file in files], [len(table) for table in tables])
    return pd.concat(tables, ignore_index=True), is_test if TEST in {file.stem for file in files} else None


def _require_columns(key: str, names: Iterable[str], table: pd.DataFrame) -> None:
    for name in names:
        if name not in table.columns:
            raise ConfigError(f"{key}={name}: the table has no such column; {nearest(name, map(str, table.columns))}")


def groups(key: str, column: pd.Series) -> tuple[NDArray, list[str]]:
    """The number of each row's value [N], and the values in order, or in that of a categorical column.

    Raises:
        ConfigError: beginning with `key`, where a value is missing, or is a fraction or a list.
    """
    if lacking := int(column.isna().sum()):
        raise ConfigError(f"{key}: {lacking} rows have no value there; remove them")
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(), [str(value) for value in column.cat.categories]
    if pd.api.types.is_float_dtype(column):
        if not (column % 1 == 0).all():
            raise ConfigError(f"{key}: has fractions; must be whole numbers or texts (there is no regression yet)")
        column = column.astype(np.int64)
    if not pd.api.types.is_integer_dtype(column):
        column = column.astype(str)
    numbers, values = pd.factorize(column, sort=True)
    return numbers, [str(value) for value in values]
