"""A table of one's own, in CSV or Parquet files: which column is the label, and which says whose a row is."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_bench.build import nearest
from fl_bench.data.arrays import FederatedData
from fl_bench.data.facts import Facts
from fl_bench.data.tables import as_stated, facts_of, federated, refuse_unstated, test_rows
from fl_bench.data.texts import Texts
from fl_bench.errors import ConfigError, disk_trouble

READERS: dict[str, Callable[..., pd.DataFrame]] = {
    "csv": pd.read_csv,
    "jsonl": lambda file: _objects(file.read_text(encoding="utf-8-sig")),
    "parquet": pd.read_parquet,
}
TAB, SPACES = r"\t", r"\s+"  # as one types them
MOST_CLASSES = 100
LACKING = "rows have no value there (in CSV also None, NA and the like); remove them"
TEST = "test"  # the name of the file, without its suffix, whose rows are the test set


class Labelled(NamedTuple):
    """The labels `y` [N] of a table's rows, whose they are, `source` [N], and whether each is for the test set [N]."""

    y: NDArray
    classes: list[str]
    is_test: NDArray[np.bool_]
    source: NDArray | None
    sources: list[str]


def options_of(kind: str, separator: str | None, encoding: str | None) -> dict[str, str]:
    """What the reader of pandas is told of files *.`kind`."""
    if empty := [key for key, value in {"separator": separator, "encoding": encoding}.items() if value == ""]:
        raise ConfigError(f"data.{empty[0]}: must have a value, or be null")
    if separator is not None and len(separator) > 1 and separator not in (TAB, SPACES):
        raise ConfigError(f"data.separator={separator}: must be one sign, {TAB} for a tab, or {SPACES} for spaces")
    between = "\t" if separator == TAB else separator or ","
    return {"sep": between, "encoding": encoding or "utf-8"} if kind == "csv" else {}


def table_of_files(
    kind: str,
    root: str,
    label: str,
    client: str | None,
    features: Sequence[str] | None,
    facts: Facts | None = None,
    **options: Any,
) -> tuple[FederatedData, Facts]:
    """The rows of the file `root`, or of all files *.`kind` in that folder; see `table_of_rows`.

    The rows of the file test.`kind` are the test set. `options` are for the reader of pandas.
    """
    return table_of_rows(f"data.root={root}", *read_files(kind, root, options), label, client, features, facts)


def texts_of_files(
    kind: str, root: str, text: str, label: str, client: str | None, facts: Facts | None = None, **options: Any
) -> Texts:
    """The same of files with texts; see `texts_of_rows`."""
    return texts_of_rows(f"data.root={root}", *read_files(kind, root, options), text, label, client, facts)


def table_of_rows(
    where: str,
    table: pd.DataFrame,
    is_test: NDArray[np.bool_] | None,
    label: str,
    client: str | None,
    features: Sequence[str] | None,
    facts: Facts | None = None,
) -> tuple[FederatedData, Facts]:
    """The rows that `labelled` finds, as `features_of` makes them: of the columns `features`, or all others.

    With `facts` as these say, which are otherwise found out; they are returned too.

    Raises:
        ConfigError: beginning with `where` or with the key of a column, where something is wrong with it.
    """
    found = labelled(where, table, is_test, label, client, {"data.features": features or []}, facts)
    if features is not None and (label in features or not features):
        raise ConfigError(f"data.features={list(features)}: must name columns other than the label")
    rest = [str(name) for name in table.columns if name not in (label, client)]
    seen = table[list(features or rest)]
    if facts is None:
        facts = Facts(classes=found.classes, columns=facts_of(seen, found.is_test))
    elif facts.columns is None:
        raise ConfigError("data.facts: states no columns, which task=tabular needs")
    else:
        refuse_unstated("data.facts", seen, facts.columns)
    x = as_stated(seen, facts.columns or {})
    return federated(x, found.y, found.is_test, found.classes, found.source, found.sources), facts


def texts_of_rows(
    where: str,
    table: pd.DataFrame,
    is_test: NDArray[np.bool_] | None,
    text: str,
    label: str,
    client: str | None,
    facts: Facts | None = None,
) -> Texts:
    """The rows that `labelled` finds, of which column `text` has the texts.

    Raises:
        ConfigError: as for `table_of_rows`, or where a text is missing, empty or none.
    """
    y, classes, is_test, source, sources = labelled(where, table, is_test, label, client, {"data.text": [text]}, facts)
    if text in (label, client):
        raise ConfigError(f"data.text={text}: must name another column than data.label and data.client")
    return Texts(texts_in(table, text), y, classes, is_test, source, sources)


def texts_in(table: pd.DataFrame, text: str) -> list[str]:
    """The texts in this column. Raises ConfigError where one is missing, empty or none."""
    texts = table[text].tolist()
    if lacking := int(table[text].isna().sum()):
        raise ConfigError(f"data.text={text}: {lacking} {LACKING}")
    if not all(isinstance(value, str) for value in texts):
        raise ConfigError(f"data.text={text}: must be a column of texts, and has {table[text].dtype}")
    if empty := sum(not value.strip() for value in texts):
        raise ConfigError(f"data.text={text}: {empty} rows have an empty text; remove them")
    return texts


def labelled(
    where: str,
    table: pd.DataFrame,
    is_test: NDArray[np.bool_] | None,
    label: str,
    client: str | None,
    others: Mapping[str, Sequence[str]],
    facts: Facts | None = None,
) -> Labelled:
    """Classes are the values of column `label`, sources those of column `client`; `others` must be there, by their key.

    `is_test` [N] says which rows are to test; where it is None, every tenth row is, as `test_rows` chooses. With
    `facts` the classes are theirs, and the rows a part of all: only `is_test` says which are to test, if any are.
    """
    for key, names in {"data.label": [label], "data.client": [] if client is None else [client], **others}.items():
        require_columns(key, names, table)
    y, classes = groups(f"data.label={label}", table[label])
    if facts is not None:
        y, classes = facts.labels(classes, f"data.label={label}")[y], facts.classes
    if not 2 <= len(classes) <= MOST_CLASSES:
        wish = f"must have from 2 to {MOST_CLASSES} different values, the classes, and has {len(classes)}"
        raise ConfigError(f"data.label={label}: {wish}")
    source, sources = groups(f"data.client={client}", table[client]) if client is not None else (None, [])
    if facts is None:
        is_test = test_rows(where, y, source, classes, is_test)
    return Labelled(y, classes, np.zeros(len(y), bool) if is_test is None else is_test, source, sources)


def read_files(kind: str, root: str, options: Mapping[str, Any]) -> tuple[pd.DataFrame, np.ndarray | None]:
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
            hint = "; data.encoding says how its text is stored, such as latin-1"
            hint = hint if isinstance(error, UnicodeError | LookupError) and "encoding" in options else ""
            raise ConfigError(f"data.root={root}: {file.name} cannot be read as {kind} ({reason}){hint}") from error
        if not len(tables[-1].columns):
            raise ConfigError(f"data.root={root}: {file.name} has no rows")
        if (twice := tables[-1].columns[tables[-1].columns.duplicated()]).size:
            raise ConfigError(f"data.root={root}: {file.name} has two columns {twice[0]}")
        if missing := set(tables[0].columns) ^ set(tables[-1].columns):
            raise ConfigError(f"data.root={root}: {files[0].name} and {file.name} differ in column {min(missing)}")
    is_test = np.repeat([file.stem == TEST for file in files], [len(table) for table in tables])
    return pd.concat(tables, ignore_index=True), is_test if TEST in {file.stem for file in files} else None


def _objects(text: str) -> pd.DataFrame:
    """JSON objects, one a line, or, as Alpaca's are, all in one list."""
    return pd.read_json(io.StringIO(text), lines=not text.lstrip().startswith("["), dtype=False)


def require_columns(key: str, names: Iterable[str], table: pd.DataFrame) -> None:
    for name in names:
        if len(table.columns) == 1 and name not in table.columns and name in table.columns[0]:
            hint = f"one column, {table.columns[0]}; data.separator says what is between the values"
            raise ConfigError(f"{key}={name}: the table has {hint}")
        if name not in table.columns:
            raise ConfigError(f"{key}={name}: the table has no such column; {nearest(name, map(str, table.columns))}")


def groups(key: str, column: pd.Series) -> tuple[NDArray, list[str]]:
    """The number of each row's value [N], and the values in order, or in that of a categorical column.

    Raises:
        ConfigError: beginning with `key`, where a value is missing, or is a fraction or a list.
    """
    if lacking := int(column.isna().sum()):
        raise ConfigError(f"{key}: {lacking} {LACKING}")
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
