"""The groups that rows are in: by class, by source, or, of numbers to predict, by size."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import Columns
from fl_bench.errors import ConfigError

BINS = 10  # that numbers to predict are counted in


def labels_of(columns: Columns, partition: str) -> NDArray[np.int64]:
    """The column "y" [N], for a partition by class; a ConfigError where it has no classes but numbers to predict."""
    if "y" not in columns:
        has = ", ".join(sorted(columns))
        raise ConfigError(f'partition={partition}: needs a column "y", and the data has {has}; use partition=iid')
    column: NDArray = columns["y"]
    if column.dtype.kind == "f":
        wish = 'needs a class for each sample, and column "y" of this data has numbers to predict; use partition=iid'
        raise ConfigError(f"partition={partition}: {wish}")
    return column


def countable(y: NDArray, classes: Sequence[str]) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Integers `y` [N] and `classes`, their names, as they are; numbers to predict [N, ...] in bins.

    A bin is a tenth of the numbers, or more where many are equal, and is named by the lowest and the highest in it. Of
    rows with several numbers, the first counts.

    Examples:
        >>> numbers, names = countable(np.array([0.5, 0.5, 2.0, 2.25]), ["any"])
        >>> numbers.tolist(), names
        ([0, 0, 1, 2], ['0.5', '2', '2.25'])
    """
    if y.dtype.kind != "f":
        return y, classes
    y = y.reshape(len(y), -1)[:, 0]
    starts = np.unique(np.nanquantile(y, np.arange(BINS) / BINS, method="higher"))
    bins = np.searchsorted(starts, y, side="right") - 1
    ranges = [(low, y[bins == number].max()) for number, low in enumerate(starts)]
    spelled = ([_range(low, high, digits) for low, high in ranges] for digits in range(3, 18))
    return bins, next(names for names in spelled if len(set(names)) == len(names))


def _range(low: float, high: float, digits: int) -> str:
    return f"{low:.{digits}g}" if low == high else f"{low:.{digits}g} to {high:.{digits}g}"
