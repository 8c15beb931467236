"""A lower confidence bound of epsilon from one run: Steinke et al. 2023, "Privacy Auditing with One (1) Training Run",
arXiv:2305.08846.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom

from fl_bench.audit.areas import CONFIDENCE

FEWEST = 30  # canaries: of fewer, guesses that are all right show an epsilon of 1 at most
SHARE = 6  # of the canaries one in so many is guessed to be in, and as many to be out


class Guessed(NamedTuple):
    """Guesses of which canaries are in."""

    guesses: int
    right: int
    epsilon: float  # at least, with a confidence of 95 %
    most: float  # what it would be if all had been right


def guessed(scores: NDArray[np.float64], inside: NDArray[np.bool_], delta: float) -> Guessed:
    """Of the canaries with the highest scores [m] that they are in, and of those with the lowest that they are out.

    How many are guessed does not depend on the scores, as the bound asks for; of the others nothing is said.
    """
    order, each = np.argsort(scores, kind="stable"), len(scores) // SHARE
    right = int(inside[order[-each:]].sum() + (~inside[order[:each]]).sum())
    bounds = (at_least(len(scores), 2 * each, count, delta) for count in (right, 2 * each))
    return Guessed(2 * each, right, *bounds)


def at_least(canaries: int, guesses: int, right: int, delta: float) -> float:
    """The least epsilon with which so many guesses are right with a probability of 5 % or more.

    Examples:
        Ten of ten are right with probability 0.7411 ** 10 = 0.05, and 0.7411 is e / (1 + e) to the power of 1.0516.

        >>> round(at_least(30, 10, 10, 0.0), 3)
        1.051
    """

    def excess(epsilon: float) -> float:
        return p_value(canaries, guesses, right, epsilon, delta) - (1 - CONFIDENCE)

    return 0.0 if excess(0.0) >= 0 else float(brentq(excess, 0.0, 100.0))


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The probability that so many guesses are right, or more, is at most this under (epsilon, delta).

    Source: theorem 5.2, whose W is the number of guesses that are right if each is so with probability
    e^epsilon / (1 + e^epsilon): P[W >= right] + 2 * canaries * delta * max over i of P[right > W >= right - i] / i.
    """
    chance, fewer = expit(epsilon), np.arange(right)[::-1]
    below = np.cumsum(binom.pmf(fewer, guesses, chance)) / (1 + np.arange(right))
    tail = float(binom.sf(right - 1, guesses, chance))
    return min(1.0, tail + 2 * canaries * delta * float(below.max(initial=0.0)))
