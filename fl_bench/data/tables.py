"""From columns of numbers and words to the features of a model; and which rows are the test set."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_bench.build import nearest
from fl_bench.data.arrays import FederatedData
from fl_bench.data.facts import Numbers, Words
from fl_bench.errors import ConfigError, note

Columns = dict[str, Numbers | Words]  # what is stated of each
LARGEST = 1e30  # of a column of numbers, whose squares are added up
MOST_VALUES = 50  # of a column of words, which becomes so many columns of 0 and 1


def every_nth(groups: Sequence[NDArray], nth: int) -> NDArray[np.bool_]:
    """Whether each row [N] is for the test set: one row in `nth`, of each group and of each group within it.

    `groups` are arrays [N]: rows are sorted by the first, then by the second and so on, then at random, and every nth
    is taken. A group may give one row more or less than its share.

    Examples:
        >>> every_nth([np.repeat(["a", "b"], 4)], nth=4).reshape(2, 4).sum(axis=1).tolist()
        [1, 1]
    """
    shuffled = np.random.default_rng(0).random(len(groups[0]))  # the same for every seed of an experiment
    chosen = np.zeros(len(shuffled), dtype=bool)
    chosen[np.lexsort((shuffled, *reversed(groups)))[nth - 1 :: nth]] = True
    return chosen


def test_rows(
    where: str, y: NDArray, source: NDArray | None, classes: Sequence[str] | None, is_test: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """`is_test` [N] as it is, or where it is None every tenth row of each class `y` [N], and of each `source` [N].

    Without `classes` it does not matter whether some are in the test set only.

    Raises:
        ConfigError: beginning with `where`, if no row is left to train or to test, or only the test set has a class.
    """
    if is_test is None:
        note(f"{where}: has no test set of its own: every tenth row is taken")
        is_test = every_nth([y] if source is None else [source, y], nth=10)
    if not (is_test.any() and not is_test.all()):
        raise ConfigError(f"{where}: has {len(y)} rows; some must be left to train, and some to test")
    if classes is not None and (only := set(y[is_test].tolist()) - set(y[~is_test].tolist())):
        raise ConfigError(f"{where}: only the test set has the class {classes[min(only)]}; give more rows")
    return is_test


def features_of(table: pd.DataFrame, is_test: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The columns of `table` as features [N, features], of which the training rows decide everything.

    A column of numbers is brought to mean 0 and variance 1, one of words (or of true and false) becomes a column of 0
    and 1 for each of its values. Where a value is missing, the mean or the most frequent one stands there, and one more
    column says so.

    Raises:
        ConfigError: where a column has too many words, or numbers that are infinite.
    """
    return as_stated(table, facts_of(table, is_test))


def facts_of(table: pd.DataFrame, is_test: NDArray[np.bool_]) -> Columns:
    """What the training rows decide, by column."""
    found: Columns = {}
    for name, column in table.items():
        missing = column.isna().to_numpy()
        if (known := ~missing & ~is_test).any():
            found[str(name)] = (_numbers if _is_number(column) else _words)(column, missing, known)
        else:
            note(f"data: the column {name} has no value in the training rows, and is left out")
    return found


def as_stated(table: pd.DataFrame, columns: Columns) -> NDArray[np.float32]:
    """These columns of `table` as features [N, features]."""
    blocks: list[NDArray] = [np.empty((len(table), 0))]
    for name, stated in columns.items():
        column, missing = table[name], table[name].isna().to_numpy()
        if isinstance(stated, Numbers):
            blocks.append(_scaled(column, missing, stated))
        else:
            blocks.append(_one_hot(column, missing, stated))
        if stated.missing:
            blocks.append(missing[:, None])
    return np.concatenate(blocks, axis=1, dtype=np.float32)


def refuse_unstated(where: str, table: pd.DataFrame, columns: Columns) -> None:
    """Raise ConfigError, beginning with `where`, for a column that is not as stated; a note says what else is odd."""
    for name, stated in columns.items():
        if name not in table:
            hint = nearest(name, map(str, table.columns))
            raise ConfigError(f"{where}: states a column {name}, which is not there; {hint}")
        column, missing = table[name], table[name].isna()
        if isinstance(stated, Numbers) and not (_is_number(column) or missing.all()):
            word = column[~missing].iloc[0]
            raise ConfigError(f"{where}: states numbers in the column {name}, and here are words, such as '{word}'")
        if missing.any() and not stated.missing:
            wish = f"states that none is missing in the column {name}, and here {missing.sum()} are"
            raise ConfigError(f"{where}: {wish}")
        if isinstance(stated, Words) and (strange := ~missing & ~column.astype(str).isin(stated.values)).any():
            others = f"{strange.sum()} rows have others, such as '{column[strange].iloc[0]}'"
            note(
                f"{where}: states {len(stated.values)} values of the column {name}; {others}: none of these for a model"
            )
    if unstated := [str(name) for name in table if str(name) not in columns]:
        note(f"{where}: does not state these columns, which are left out: {', '.join(unstated)}")


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _numbers(column: pd.Series, missing: NDArray, known: NDArray) -> Numbers:
    numbers = _finite(column, missing)[known]
    return Numbers(mean=numbers.mean(), std=numbers.std() or 1.0, missing=bool(missing.any()))


def _finite(column: pd.Series, missing: NDArray) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = column.to_numpy(np.float64, na_value=np.nan)
    if (np.abs(numbers[~missing]) > LARGEST).any():
        wish = f"has infinite numbers, or beyond {LARGEST:g}; remove those rows"
        raise ConfigError(f"data: the column {column.name} {wish}")
    return numbers


def _words(column: pd.Series, missing: NDArray, known: NDArray) -> Words:
    words = column.astype(str).to_numpy(object)
    strange = words[~missing & pd.to_numeric(column.astype(str), errors="coerce").isna().to_numpy()]
    if 0 < 2 * len(strange) < (count := len(words) - missing.sum()):
        is_none = f"{len(strange)} of {count} cells are not numbers ('{strange[0]}' is the first)"
        note(f"data: the column {column.name}: {is_none}, so it is taken as words")
    values, counts = np.unique(words[known], return_counts=True)
    if len(values) > MOST_VALUES:
        wish = f"at most {MOST_VALUES} can be features; name others in data.features=[...]"
        raise ConfigError(f"data: the column {column.name} has {len(values)} different texts, and {wish}")
    return Words(values=values.tolist(), usual=values[counts.argmax()], missing=bool(missing.any()))


def _scaled(column: pd.Series, missing: NDArray, stated: Numbers) -> NDArray:
    scaled = (_finite(column, missing) - stated.mean) / stated.std
    return np.where(missing, 0, scaled)[:, None].astype(np.float32)


def _one_hot(column: pd.Series, missing: NDArray, stated: Words) -> NDArray:
    words = column.astype(str).to_numpy(object)
    marks: NDArray = np.where(missing, stated.usual, words)[:, None] == np.array(stated.values, object)
    return marks


def federated(
    x: NDArray,
    y: NDArray,
    is_test: NDArray[np.bool_],
    classes: Sequence[str],
    source: NDArray | None = None,
    sources: Sequence[str] = (),
) -> FederatedData:
    """Features `x` [N, ...], labels `y` [N] and who each row is from, `source` [N], as data; `sources` are names."""
    columns = {"x": x, "y": y.astype(np.int64)}
    train, test = ({name: column[rows] for name, column in columns.items()} for rows in (~is_test, is_test))
    if source is not None:
        train["source"] = source[~is_test].astype(np.int64)
    return FederatedData(train, test, tuple(classes), sources=tuple(sources))


def breast_cancer() -> FederatedData:
    """569 tumours with 30 measures each, malignant or benign; every fifth is for the test set.

    Wolberg et al. 1993, UCI Breast Cancer Wisconsin (CC BY 4.0), in the package scikit-learn. It has no sources.
    """
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer(as_frame=True)
    y = found.target.to_numpy()
    is_test = every_nth([y], nth=5)
    return federated(features_of(found.data, is_test), y, is_test, [str(name) for name in found.target_names])


def digits() -> FederatedData:
    """1,797 handwritten digits of 8 x 8 pixels, row after row, as a table of 64 columns; every fifth is for the test
    set.

    Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits (CC BY 4.0), in the package scikit-learn.
    """
    from sklearn.datasets import load_digits

    found = load_digits(as_frame=True)
    y = found.target.to_numpy()
    is_test = every_nth([y], nth=5)
    return federated(features_of(found.data, is_test), y, is_test, [str(name) for name in found.target_names])
