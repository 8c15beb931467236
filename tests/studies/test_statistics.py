"""Statistics by numbers worked out by hand, by SciPy in another way, and by studies in which nothing differs."""

import math

import numpy as np
import pytest
from scipy import stats

from fl_bench.studies.statistics import (
    effect_size,
    finite,
    friedman,
    holm,
    interquartile_mean,
    interval,
    seeds_needed,
    seeds_to_show,
    share_better,
    sign_flip,
    signed_rank,
    t_test,
)

FIVE = [0.03, 0.01, 0.05, 0.02, 0.04]  # their standard deviation is sqrt(0.00025), that of their mean sqrt(0.00005)


def test_an_interval_by_hand() -> None:
    mean, half = interval(FIVE)
    assert mean == pytest.approx(0.03)
    assert half == pytest.approx(2.776445 * 0.00005**0.5, rel=1e-6)  # t of 4 degrees of freedom, from a table
    low, high = stats.t.interval(0.95, 4, loc=0.03, scale=stats.sem(FIVE))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(interval([0.5])[1])


def test_p_of_a_t_test_is_that_of_pairs() -> None:
    draws = np.random.default_rng(0)
    a, b = draws.normal(0.8, 0.02, (2, 7))
    assert t_test(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert t_test([1.0, 2.0, 3.0]) == pytest.approx(
        0.0741799, rel=1e-5
    )  # t = 2 sqrt(3), 2 degrees: 1 - t / sqrt(t² + 2)
    assert t_test([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12 / 14))
    assert t_test([a - b, b - a]).tolist() == pytest.approx([float(t_test(a - b))] * 2)


def test_differences_that_do_not_spread() -> None:
    assert t_test([0.0, 0.0, 0.0]) == sign_flip([0.0, 0.0, 0.0]) == signed_rank([0.0, 0.0]) == 1
    assert effect_size([0.0, 0.0]) == 0
    same = [0.51 - 0.50, 0.81 - 0.80, 0.11 - 0.10]  # equal but for rounding
    assert len(set(same)) > 1
    assert math.isnan(t_test(same))
    assert math.isnan(effect_size(same))
    assert sign_flip(same) == 0.25
    assert math.isnan(t_test([0.1]))
    assert math.isnan(effect_size([0.1]))
    assert math.isnan(sign_flip([0.1]))
    assert math.isnan(t_test([0.0]))


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10])
def test_the_smallest_p_of_sign_flips(n: int) -> None:
    assert sign_flip(np.arange(1, n + 1)) == 2.0 ** (1 - n)
    assert signed_rank(np.arange(1, n + 1)) == 2.0 ** (1 - n)
    assert (2.0 ** (1 - n) < 0.05) == (n >= seeds_to_show(0.05))


def test_sign_flips_by_hand() -> None:
    # Of the sums ±1 ±2 ±4, six of eight are 3 or more away from 0, and two are 1.
    assert sign_flip([1, -2, 4]) == 0.75
    assert sign_flip([-1, 2, -4]) == 0.75
    assert sign_flip(np.arange(1, 21)) < 1e-4  # too many to look at all: 2 of 1,048,576


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04]).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.6, 0.5]).tolist() == [1, 1]
    corrected = holm([0.03, math.nan, 0.01])  # two tests
    assert corrected[[0, 2]].tolist() == [0.03, 0.02]
    assert math.isnan(corrected[1])


def test_pairs_won_and_effect() -> None:
    assert share_better([1, 0, -1, 1]) == 0.625
    a, b = np.array([0.5]), np.array([0.4, 0.5, 0.6, 0.3])  # against one number it is Mann and Whitney's U
    assert share_better(a - b) == stats.mannwhitneyu(a, b).statistic / 4
    assert effect_size(FIVE) == pytest.approx(0.03 / 0.00025**0.5)
    assert effect_size(FIVE) * 5**0.5 == pytest.approx(stats.ttest_1samp(FIVE, 0).statistic)


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (-0.8, 15), (1.0, 10)])
def test_seeds_needed_are_those_of_gpower(effect: float, n: int) -> None:
    assert seeds_needed(effect) == n


def test_seeds_needed_are_those_of_simulated_studies() -> None:
    draws = np.random.default_rng(0).normal(1.5, 1, (20_000, seeds_needed(1.5) or 0))
    assert (t_test(draws) < 0.05).mean() > 0.79
    assert (t_test(draws[:, 1:]) < 0.05).mean() < 0.79
    assert seeds_needed(0) is seeds_needed(math.nan) is seeds_needed(0.01) is None


def test_over_settings() -> None:
    middle, low, high = interquartile_mean([[1, 2], [3, 4], [5, 6], [7, 100]])  # the middle half: 3, 4, 5, 6
    assert middle == 4.5
    assert low < 4.5 < high
    assert interquartile_mean([[0.5, 0.5], [0.5, 0.5]]) == (0.5, 0.5, 0.5)
    assert interquartile_mean([[1, 2], [3, 4]]) == interquartile_mean([[1, 2], [3, 4]])
    assert interquartile_mean([[1], [3], [5], [9]]) == (4, 4, 4)  # nothing is drawn across settings
    # Ranks of three arms in four settings are always 1, 2, 3: chi² = 8 with 2 degrees of freedom, so p = exp(-4).
    assert friedman([[1, 2, 3], [0, 5, 9], [3, 4, 5], [1, 7, 8]]) == pytest.approx(math.exp(-4))
    assert friedman([[1, 1, 1], [2, 2, 2]]) == 1


def test_a_value_that_is_none_is_refused() -> None:
    for function in (interval, t_test, sign_flip, share_better, effect_size, signed_rank, finite):
        with pytest.raises(ValueError, match="no finite number"):
            function([0.1, math.nan])


def test_where_nothing_differs_few_studies_say_so() -> None:
    """Of 2,000 studies of five seeds and four arms equal to the baseline, all sharing what a seed does."""
    draws = np.random.default_rng(0)
    seeds, arms = draws.normal(0, 3, (2000, 1, 5)), draws.normal(0, 1, (2000, 5, 5))
    values = 0.8 + 0.01 * (seeds + arms)
    p = t_test(values[:, 1:] - values[:, :1])
    assert 0.035 <= (p[:, 0] < 0.05).mean() <= 0.065
    assert (np.apply_along_axis(holm, 1, p).min(axis=1) < 0.05).mean() <= 0.065
    assert (p.min(axis=1) < 0.05).mean() > 0.1  # without Holm it would be too often


def test_intervals_hold_the_truth() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.02, (2000, 5))
    held = [abs(mean - 0.8) < half for mean, half in map(interval, values)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
