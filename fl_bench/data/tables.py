"""From columns of numbers and words to the features of a model; and which rows are the test set."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError, note

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
    where: str, y: NDArray, source: NDArray | None, classes: Sequence[str], is_test: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """`is_test` [N] as it is, or where it is None every tenth row of each class `y` [N], and of each `source` [N].

    Raises:
        ConfigError: beginning with `where`, if no row is left to train or to test, or only the test set has a class.
    """
    if is_test is None:
        note(f"{where}: has no test set of its own: every tenth row is taken")
        is_test = every_nth([y] if source is None else [source, y], nth=10)
    if not (is_test.any() and not is_test.all()):
        raise ConfigError(f"{where}: has {len(y)} rows; some must be left to train, and some to test")
    if only := set(y[is_test].tolist()) - set(y[~is_test].tolist()):
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
    blocks: list[NDArray] = [np.empty((len(table), 0))]
    for name, column in table.items():
        missing = column.isna().to_numpy()
        if not (known := ~missing & ~is_test).any():
            note(f"data: the column {name} has no value in the training rows, and is left out")
            continue
        is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        blocks.append((_scaled if is_number else _one_hot)(str(name), column, missing, known))
        if missing.any():
            blocks.append(missing[:, None])
    return np.concatenate(blocks, axis=1, dtype=np.float32)


def _scaled(name: str, column: pd.Series, missing: NDArray, known: NDArray) -> NDArray:
    numbers = column.to_numpy(np.float64, na_value=np.nan)
    if (np.abs(numbers[~missing]) > LARGEST).any():
        raise ConfigError(f"data: the column {name} has infinite numbers, or beyond {LARGEST:g}; remove those rows")
    mean, std = numbers[known].mean(), numbers[known].std()
    return np.where(missing, 0, (numbers - mean) / (std or 1))[:, None].astype(np.float32)


def _one_hot(name: str, column: pd.Series, missing: NDArray, known: NDArray) -> NDArray:
    words = column.astype(str).to_numpy(object)
    strange = words[~missing & pd.to_numeric(column.astype(str), errors="coerce").isna().to_numpy()]
    if 0 < 2 * len(strange) < (count := len(words) - missing.sum()):
        is_none = f"{len(strange)} of {count} cells are not numbers ('{strange[0]}' is the first)"
        note(f"data: the column {name}: {is_none}, so it is taken as words")
    values, counts = np.unique(words[known], return_counts=True)
    if len(values) > MOST_VALUES:
        wish = f"at most {MOST_VALUES} can be features; name others in data.features=[...]"
        raise ConfigError(f"data: the column {name} has {len(values)} different texts, and {wish}")
    marks: NDArray = np.where(missing, values[counts.argmax()], words)[:, None] == values
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
