"""The labels of a client's examples, from what its update does to the biases of the last layer.

The gradient of cross-entropy by the bias of class c is the mean over the examples of p_c - 1 where c is the label, and
of p_c elsewhere (Zhao et al. 2020, arXiv:2001.02610, equation 2). Of several examples the server does not know p; it
takes the mean over rows of its own, by label (Wainakh et al. 2022, arXiv:2105.09369, with auxiliary data).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from fl_bench.audit.areas import Floats

POINTS = np.linspace(0, 1, 21)  # of a turn, from its first model to its last, where the mean prediction may lie
FITS = 1e-3  # how much worse than the best a point may fit


def shares(gradient: Floats, before: Floats, after: Floats) -> Floats:
    """The shares [C] of the classes among the examples, from the mean `gradient` [C] of the biases over a turn.

    `before` and `after` [C, C] have in row c what the model predicts in the mean for examples of class c, at the turn's
    beginning and end. For predictions at one point between them the shares solve

        gradient = sum over c of shares[c] * (predicted[c] - e_c),

    by least squares; none is negative, and their sum is 1. Of the points that fit, the latest is taken, which is ours:
    a model changes most at first, so that the mean over many steps lies near the end.

    Examples:
        A model that knows nothing yet, and three of four examples are of class 0:

        >>> nothing = np.full((2, 2), 0.5)
        >>> shares(np.array([-0.25, 0.25]), nothing, nothing).round(6).tolist()
        [0.75, 0.25]
    """
    solved = [_solved(gradient, (1 - point) * before + point * after) for point in POINTS]
    best = min(error for _, error in solved)
    found = [part for part, error in solved if error <= best + FITS][-1]
    total = found.sum()
    return found / total if total else np.full(len(found), 1 / len(found))


def _solved(gradient: Floats, predicted: Floats) -> tuple[Floats, float]:
    """The shares [C] for these predictions, whose sum is nearly 1, and how far they are from the gradient."""
    classes = len(gradient)
    system = np.vstack([predicted.T - np.eye(classes), np.ones(classes)])
    found, error = nnls(system, np.append(gradient, 1.0))
    return found, error


def labels(gradient: Floats, shares: Floats, count: int, examples: int) -> NDArray[np.int64]:
    """Labels [count] for so many of the examples, which are in these `shares` [C], by the largest remainders.

    Of one example, the label is the only class whose bias has a negative gradient.
    """
    if examples == 1:
        return np.array([gradient.argmin()])
    whole = np.floor(shares * count).astype(np.int64)
    rest = np.argsort(whole - shares * count, kind="stable")[: count - whole.sum()]
    whole[rest] += 1
    return np.repeat(np.arange(len(shares)), whole)


def total_variation(a: Floats, b: Floats) -> float:
    """Half of the sum of |a - b|, from 0 to 1, of two distributions [C]."""
    return float(np.abs(a - b).sum() / 2)
