"""What differences between paired runs show, and what they do not.

All functions take finite numbers and raise ValueError for others: a run without a number must not vanish in a mean.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fl_bench.rng import generator

EQUAL = 1e-12  # differences that lie closer together, beside the largest of them, are one and the same but for rounding
EXACT = 2**16  # ways to choose signs that are all looked at; of more, as many at random
RESAMPLES = 2000
MOST_SEEDS = 1000  # beyond, `seeds_needed` says none


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """The values as an array; ValueError where one is no finite number."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a value is no finite number")
    return array


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The mean of values [n] and the half-width of its Student interval (Student 1908); NaN for one value alone.

    Examples:
        >>> mean, half = interval([1.0, 2.0, 3.0])  # 4.303 standard errors of 1 / sqrt(3)
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    array = finite(values)
    if len(array) < 2:
        return float(array.mean()), float("nan")
    return float(array.mean()), float(stats.t.ppf((1 + level) / 2, len(array) - 1) * stats.sem(array))


def t_test(differences: ArrayLike) -> NDArray[np.float64]:
    """The two-sided p of differences [..., n] by Student's paired t test: 1 where all of two or more are 0.

    NaN where they are one value alone, or equal and not 0: how they spread is not known then.
    """
    array = finite(differences)
    largest = np.abs(array).max(axis=-1)
    spread = np.ptp(array, axis=-1) > EQUAL * largest
    if array.shape[-1] < 2:
        return np.full(array.shape[:-1], np.nan)
    with np.errstate(all="ignore"):  # of equal differences, which are looked at below
        p = 2 * stats.t.sf(np.abs(array.mean(axis=-1) / stats.sem(array, axis=-1)), array.shape[-1] - 1)
    return np.where(largest == 0, 1.0, np.where(spread, p, np.nan))


def sign_flip(differences: ArrayLike) -> float:
    """The two-sided p of differences [n] by Fisher's sign flips (1935): exact up to 16, else of 65,536 random flips.

    It supposes no normal distribution, but of n differences it is never below 2 ** (1 - n): `seeds_to_show`. One
    difference alone, whose p is 1 whatever it is, has none: NaN.

    Examples:
        >>> sign_flip([1.0, 2.0, 3.0, 4.0, 5.0])  # no other of 32 choices of signs is as far out, but the opposite
        0.0625
    """
    array = finite(differences)
    if len(array) == 1:
        return float("nan")
    if not array.any():
        return 1.0
    draws = {"n_resamples": EXACT, "rng": generator(0, "sign flips")}
    return float(stats.permutation_test((array,), np.mean, permutation_type="samples", vectorized=True, **draws).pvalue)


def seeds_to_show(alpha: float = 0.05) -> int:
    """With how many pairs the sign flips can come below `alpha` at all.

    Examples:
        >>> seeds_to_show(0.05), seeds_to_show(0.01)
        (6, 8)
    """
    return int(np.floor(1 - np.log2(alpha))) + 1


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """The p values [m] corrected for their number (Holm 1979); NaN, which is no test, stays and does not count.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p, dtype=np.float64)
    corrected = np.full_like(raw, np.nan)
    order = np.argsort(raw)[: int(np.isfinite(raw).sum())]  # NaN comes last
    corrected[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(order), 0, -1)))
    return corrected


def share_better(differences: ArrayLike) -> float:
    """The share of pairs that are won, ties half (Mann and Whitney 1947; Bouthillier et al. 2021), of what is more.

    Examples:
        >>> share_better([1.0, 2.0, 0.0, -1.0])
        0.625
    """
    return float((np.sign(finite(differences)) / 2 + 0.5).mean())


def effect_size(differences: ArrayLike) -> float:
    """Cohen's d_z: the mean of differences [n] in their standard deviations (Lakens 2013); NaN where there are none.

    Examples:
        >>> effect_size([1.0, 2.0, 3.0])
        2.0
    """
    array = finite(differences)
    if len(array) < 2 or np.ptp(array) <= EQUAL * np.abs(array).max():
        return 0.0 if len(array) > 1 and not array.any() else float("nan")
    return float(array.mean() / array.std(ddof=1))


def seeds_needed(effect: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """How many pairs the paired t test needs to show an effect (d_z) with this power (Cohen 1988), up to 1,000.

    By the noncentral t distribution, for one comparison; None where more are needed, or the effect is 0 or unknown.

    Examples:
        >>> seeds_needed(1.0), seeds_needed(0.0)
        (10, None)
    """
    n = np.arange(2, MOST_SEEDS + 1)
    beyond = stats.t.ppf(1 - alpha / 2, n - 1)
    enough = stats.nct.sf(beyond, n - 1, abs(effect) * np.sqrt(n)) >= power
    return int(n[enough.argmax()]) if enough.any() else None


def interquartile_mean(by_setting: Sequence[ArrayLike], level: float = 0.95) -> tuple[float, float, float]:
    """The mean of the middle half of all values, and its interval (Agarwal et al. 2021).

    The interval is the percentile bootstrap's, which draws anew within each setting; of few seeds it is too narrow.
    """
    groups = [finite(values) for values in by_setting]
    draws = generator(0, "bootstrap")
    drawn = np.concatenate([group[draws.integers(0, len(group), (RESAMPLES, len(group)))] for group in groups], axis=1)
    low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(stats.trim_mean(np.concatenate(groups), 0.25)), float(low), float(high)


def signed_rank(differences: ArrayLike) -> float:
    """The two-sided p of differences [settings] by Wilcoxon's signed ranks (Demsar 2006), 1 where all are 0.

    Ties and zeros are ranked by Pratt; of n settings p is never below 2 ** (1 - n).

    Examples:
        >>> signed_rank([0.1, 0.2, 0.3, 0.4, 0.5])
        0.0625
    """
    array = finite(differences)
    return 1.0 if not array.any() else float(stats.wilcoxon(array, zero_method="pratt").pvalue)


def friedman(values: ArrayLike) -> float:
    """The p of values [settings, arms], three arms or more, by Friedman's ranks: whether any two arms differ."""
    array = finite(values)
    same = (np.ptp(array, axis=1) == 0).all()
    return 1.0 if same else float(stats.friedmanchisquare(*array.T).pvalue)
