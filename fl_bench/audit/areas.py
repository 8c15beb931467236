"""How well scores tell rows of a class from all others: the area under the curve, and its interval."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Floats = NDArray[np.float64]
CONFIDENCE = 0.95  # of the intervals


def area(scores: Floats, labels: NDArray, classes: Iterable[int]) -> tuple[float, float, float]:
    """The mean over `classes` [K] of the area under the curve, and the ends of its interval.

    A row of `scores` [N, K] says how much a row, of the class in `labels` [N], is like one of each class; each of these
    has rows, and others are there. 0.5 tells nothing. The interval is DeLong's (1988, Biometrics 44(3)), by normal
    approximation; of several classes by the sum of each row's placements in all curves.

    Examples:
        Of the four pairs of one row of class 1 and one of class 0, three have the higher score at the former:

        >>> area(np.array([[3.0], [1.0], [2.0], [0.0]]), np.array([1, 1, 0, 0]), [1])[0]
        0.75
    """
    places, areas = np.zeros(len(labels)), []
    for column, label in zip(scores.T, classes, strict=True):
        inside = labels == label
        ranks, count = rankdata(column), inside.sum()
        above = (ranks[inside] - rankdata(column[inside])) / (~inside).sum()  # of each, the others' share below it
        below = 1 - (ranks[~inside] - rankdata(column[~inside])) / count
        areas.append(above.mean())
        places[inside] += above / count
        places[~inside] += below / (~inside).sum()
    strata = [places[labels == label] / len(areas) for label in np.unique(labels)]
    variance = sum(len(part) * part.var(ddof=1) for part in strata if len(part) > 1)
    middle, reach = float(np.mean(areas)), float(norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance))
    return middle, max(0.0, middle - reach), min(1.0, middle + reach)
