"""Each rule on numbers worked out by hand, on a second formulation, and as an independent package has it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from stock import found

from fl_bench.robust.base import Rule, Told
from fl_bench.robust.before import Bucketing, Mixing, NearestNeighbours
from fl_bench.robust.by_coordinate import Median, TrimmedMean
from fl_bench.robust.clipping import CenteredClipping, NormBound
from fl_bench.robust.dnc import DivideAndConquer
from fl_bench.robust.flame import Flame
from fl_bench.robust.fltrust import FLTrust
from fl_bench.robust.foolsgold import FoolsGold
from fl_bench.robust.geometric_median import GeometricMedian
from fl_bench.robust.krum import Bulyan, Krum, MultiKrum
from fl_bench.robust.signguard import SignGuard

PLAIN = Mixing()


def rule(kind: Any, *given: Any) -> Any:
    return kind(PLAIN, 0, *given)


def combined(
    made: Rule, *updates: ArrayLike, clients: tuple[int, ...] | None = None, own: ArrayLike | None = None
) -> Any:
    rows = np.array(updates, np.float64).reshape(len(updates), -1)
    mine = None if own is None else np.array(own, np.float64)
    told = Told(clients or tuple(range(len(rows))), np.random.default_rng(0), mine)
    new = made.combine(rows, told)
    return None if new is None else new.tolist()


def test_krum_takes_the_one_whose_nearest_are_nearest() -> None:
    # of five with f = 1 the two nearest others count: 10, 5, 13, 36.25, 42.5
    assert combined(rule(Krum, 1), 0.0, 1.0, 3.0, 9.0, 9.5) == [1.0]


def test_multikrum_averages_the_best() -> None:
    assert combined(rule(MultiKrum, 1, 2), 0.0, 1.0, 3.0, 9.0, 9.5) == [0.5]
    assert combined(rule(MultiKrum, 1, None), 0.0, 1.0, 3.0, 9.0, 9.5) == [3.25]


@pytest.mark.parametrize("size", [1e-4, 1e-6])
def test_krum_finds_the_right_client_when_updates_are_small(size: float) -> None:
    assert found(None, size, cases=10) == 10


def test_bulyan_by_hand() -> None:
    # f = 1 of seven: five are chosen, one after the other, and of them the three nearest to their median count.
    # Scores of 0, 1, 2, 3, 4, 50, 60 with the four nearest: 2 is the best (1 + 1 + 4 + 4 = 10);
    # then of 0, 1, 3, 4, 50, 60 with three: 1 (1 + 4 + 9 = 14; 3 has 1 + 4 + 9 too, and comes later);
    # of 0, 3, 4, 50, 60 with two: 3 (1 + 9 = 10); of 0, 4, 50, 60 with one: 0 (16; 4 has the same, and comes later);
    # of 4, 50, 60 with one: 50 (100).
    # The chosen 0, 1, 2, 3, 50 have the median 2, and nearest to it are 1, 2, 3.
    assert combined(rule(Bulyan, 1), 0.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0) == [2.0]
    # All at once, 15, 18, 19, 24 and 27 would be selected, whose middle three have the mean 17.33; one after the other
    # 0, 5, 18, 19 and 24 are.
    selected = combined(rule(Bulyan, 1), 0.0, 5.0, 15.0, 18.0, 19.0, 24.0, 27.0)
    assert selected == pytest.approx([(18 + 19 + 24) / 3])


def test_the_median_and_the_trimmed_mean_look_at_each_number() -> None:
    updates = [-90.0, 5.0], [1.0, 4.0], [2.0, 1000.0], [3.0, 6.0], [70.0, -8.0]
    assert combined(rule(Median), *updates) == [2.0, 5.0]
    assert combined(rule(TrimmedMean, 0.2), *updates) == [2.0, 5.0]
    assert combined(rule(TrimmedMean, 0.1), *updates) == [2.0, 5.0]  # one of either end at least
    assert combined(rule(TrimmedMean, 0.0), *updates) == pytest.approx([-2.8, 201.4])


def test_the_geometric_median_of_four_is_where_their_diagonals_cross() -> None:
    square = (0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 2.0)  # y = x and y = 2 - x / 2
    assert combined(rule(GeometricMedian, 500, 1e-9), *square) == pytest.approx([4 / 3, 4 / 3])
    # from the mean 1 the distances are 1, 1, 1 and 3
    assert combined(rule(GeometricMedian, 1, 1e-9), 0.0, 0.0, 0.0, 4.0) == pytest.approx([0.4])
    assert combined(rule(GeometricMedian, 1, 3.0), 0.0, 0.0, 0.0, 4.0) == [1.0]  # all count as 3


def test_the_geometric_median_adds_up_to_the_least() -> None:
    updates = np.random.default_rng(3).normal(size=(7, 3))
    found = minimize(lambda at: np.linalg.norm(updates - at, axis=1).sum(), np.zeros(3), tol=1e-12).x
    assert combined(rule(GeometricMedian, 1000, 1e-12), *updates) == pytest.approx(found, abs=1e-5)


def test_longer_updates_are_shortened_and_others_stay_the_same_object() -> None:
    update = np.array([3.0, 4.0])
    assert rule(NormBound, 2.5).bound(update, None).tolist() == [1.5, 2.0]
    assert rule(NormBound, 5.0).bound(update, None) is update
    assert rule(CenteredClipping, 1.0).bound(update, None) == pytest.approx([0.6, 0.8])
    assert rule(CenteredClipping, 2.0).bound(update, np.array([3.0, 0.0])).tolist() == [3.0, 2.0]
    assert rule(CenteredClipping, 4.0).bound(update, np.array([3.0, 0.0])) is update
    assert np.isnan(rule(NormBound, 1.0).bound(np.array([np.inf, 0.0]), None)).any()  # who adds it up refuses it


def test_foolsgold_gives_no_weight_to_those_who_are_alike() -> None:
    twins = rule(FoolsGold, 1.0)
    assert combined(twins, [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]) == [0.0, 1.0]
    # the cosines of the first two are 0.6, of the others 0 or less; of 0.4 the weight is ln(0.4 / 0.6) + 0.5
    weight = np.log(0.4 / 0.6) + 0.5
    some = combined(rule(FoolsGold, 1.0), [5.0, 0.0], [0.6, 0.8], [0.0, -1.0])
    assert some == pytest.approx(np.array([5.6 * weight, 0.8 * weight - 1]) / (2 * weight + 1))
    # It is the sum so far that counts: that of client 0 is now (1, 1), of 2 it is (1, 1) too, and of 1 it is (1, -1).
    assert combined(twins, [1.0, 0.0], [0.0, 1.0], [0.0, -1.0], clients=(2, 0, 1)) == [0.0, -1.0]
    assert combined(rule(FoolsGold, 1.0), [1.0, 0.0], [2.0, 0.0]) is None  # nobody is left


def test_foolsgold_pardons_who_is_less_alike() -> None:
    """Of cosines 0.8, 0.6 and 0: the second is the most alike to both, and the third is like it by 0.6 * 0.6 / 0.8."""
    weights = rule(FoolsGold, 1.0).weights(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    alphas = np.array([0.2, 0.2, 1 - 0.6 * 0.6 / 0.8])
    share = alphas / alphas.max()
    logit = [np.log(0.2 / 0.55 / (1 - 0.2 / 0.55)) + 0.5, np.log(0.2 / 0.55 / (1 - 0.2 / 0.55)) + 0.5, 1]
    assert share[2] == 1
    assert weights == pytest.approx(np.clip(logit, 0, 1))


def test_divide_and_conquer_leaves_out_who_stands_out() -> None:
    assert combined(rule(DivideAndConquer, 1, 1, 10, 1.0), 0.0, 1.0, 2.0, 9.0) == [1.0]
    # cut = 2: of 0, 1, 2, 9, whose mean is 3, also the next, 0
    assert combined(rule(DivideAndConquer, 1, 1, 10, 2.0), 0.0, 1.0, 2.0, 9.0) == [1.5]
    assert combined(rule(DivideAndConquer, 0, 1, 10, 1.0), 0.0, 1.0, 2.0, 9.0) == [3.0]
    # looking at one number of two at a time, for long enough, each of the last two is left out
    apart = [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [99.0, 0.0], [0.0, 99.0]
    assert combined(rule(DivideAndConquer, 1, 50, 1, 1.0), *apart) == pytest.approx([1 / 3, 1 / 3])


def test_signguard_by_hand() -> None:
    honest = [1.0, 1.0, 1.0, -1.0], [1.0, 1.0, -1.0, 1.0], [4.0, 4.0, -4.0, 4.0]  # lengths 2, 2 and 8
    turned, long, short = [-1.0, -1.0, -1.0, -1.0], [100.0, 100.0, -100.0, 100.0], [0.01, 0.01, -0.01, 0.01]
    # The median length of 2, 2, 8, 2, 200, 0.02 is 2: 8 is longer than 3 of it, and so is 200; 0.02 is too short.
    new = combined(rule(SignGuard, 1.0, 0.1, 3.0), *honest, turned, long, short)
    assert new == pytest.approx([1.0, 1.0, 0.0, 0.0])
    # With 4 of them allowed, 8 counts, as long as 2.
    new = combined(rule(SignGuard, 1.0, 0.1, 4.0), *honest, turned, long, short)
    assert new == pytest.approx([1.0, 1.0, -1 / 3, 1 / 3])


def test_flame_by_hand() -> None:
    updates = [3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [-9.0, 0.0], [0.0, 9.0]
    # Three of five lie together; the median length is 3, so nobody of them is shortened.
    assert combined(rule(Flame, 0.0), *updates) == [2.0, 0.0]
    updates = [3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 1.0]
    assert combined(rule(Flame, 0.0), *updates) == [1.0, 0.0]  # 1: the median length
    noisy = np.array([combined(rule(Flame, 0.5), *([2.0] * 5000 for _ in range(4)))])
    assert (noisy - 2.0).std() == pytest.approx(0.5 * np.linalg.norm([2.0] * 5000), rel=0.05)


def test_fltrust_by_hand() -> None:
    """The server's own is 5 long. Cosines: (4, 3) 24/25; (0, 20) 4/5; (-4, -3) less than 0; 0 has none."""
    own, updates = [3.0, 4.0], ([4.0, 3.0], [0.0, 20.0], [-4.0, -3.0], [0.0, 0.0])
    new = combined(rule(FLTrust, 9), *updates, own=own)  # as long as it is they are (4, 3) and (0, 5)
    assert new == pytest.approx([4 * 24 / 44, 3 * 24 / 44 + 5 * 20 / 44])
    assert combined(rule(FLTrust, 9), [0.5, 0.0], own=own) == pytest.approx([5.0, 0.0])
    assert combined(rule(FLTrust, 9), [-1.0, 0.0], own=own) is None
    assert combined(rule(FLTrust, 9), [1.0, 0.0], own=[0.0, 0.0]) == [0.0, 0.0]  # as long as it


def test_nearest_neighbour_mixing_by_hand() -> None:
    rows = np.array([[0.0], [1.0], [3.0], [9.5]])
    mixed = NearestNeighbours(1).mix(rows, np.random.default_rng(0))
    assert mixed.ravel() == pytest.approx([4 / 3, 4 / 3, 4 / 3, 4.5])


def test_bucketing_by_hand() -> None:
    drawn: Any = SimpleNamespace(permutation=lambda n: np.array([2, 0, 1]))
    assert Bucketing(2).mix(np.array([[0.0], [1.0], [5.0]]), drawn).tolist() == [[2.5], [1.0]]
    whole = Bucketing(3).mix(np.array([[1.0], [2.0], [6.0]]), np.random.default_rng(0))
    assert whole.tolist() == [[3.0]]


def test_how_many_must_answer() -> None:
    assert [rule(Krum, f).needed for f in (0, 3)] == [3, 9]
    assert [rule(Bulyan, f).needed for f in (0, 2)] == [3, 11]
    assert rule(MultiKrum, 1, 6).needed == 7
    assert [rule(TrimmedMean, beta).needed for beta in (0.0, 0.09, 0.1, 0.34)] == [1, 12, 10, 3]
    assert [Krum(Bucketing(size), 0, 1).needed for size in (1, 2)] == [5, 9]  # five buckets
    assert [Median(NearestNeighbours(f), 0).needed for f in (0, 3)] == [1, 7]
    assert Rule(PLAIN, 0).needed == 1


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        (Krum, (-3,), "num_malicious=-3: must be 0 or more"),
        (MultiKrum, (1, 0), "num_selected=0: must be 1 or more"),
        (TrimmedMean, (0.5,), "beta=0.5: must be from 0 to below 0.5"),
        (GeometricMedian, (0, 0.1), "iterations=0: must be 1 or more"),
        (GeometricMedian, (1, 0.0), "smoothing=0.0: must be a positive number"),
        (NormBound, (0.0,), "longest=0.0: must be a positive number"),
        (CenteredClipping, (-1.0,), "radius=-1.0: must be a positive number"),
        (DivideAndConquer, (1, 1, 1, 3.0), "cut=3.0: must be more than 0 and at most 2"),
        (SignGuard, (0.0, 0.1, 3.0), "share=0.0: must be more than 0 and at most 1"),
        (SignGuard, (0.1, 2.0, 3.0), "shortest=2.0: must be from 0 to 1"),
        (SignGuard, (0.1, 0.1, 0.5), "longest=0.5: must be 1 or more"),
        (Flame, (-1.0,), "noise=-1.0: must be 0 or more"),
        (FLTrust, (0,), "size=0: must be 1 or more"),
        (FoolsGold, (0.0,), "confidence=0.0: must be a positive number"),
    ],
)
def test_what_could_not_defend_is_refused(kind: Any, given: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        rule(kind, *given)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_byzfl(seed: int) -> None:
    """Its Krum counts one neighbour more than the paper, so with one malicious client more it is the paper's."""
    byzfl = pytest.importorskip("byzfl")
    rows = np.random.default_rng(seed).normal(size=(9, 20))
    rows[:2] *= 30
    for ours, theirs in (
        (rule(Krum, 2), byzfl.Krum(3)),
        (rule(MultiKrum, 2, 6), byzfl.MultiKrum(3)),
        (rule(Median), byzfl.Median()),
        (rule(TrimmedMean, 2 / 9 + 1e-9), byzfl.TrMean(2)),
        (rule(GeometricMedian, 300, 1e-3), byzfl.GeometricMedian(1e-3, 300)),
    ):
        assert combined(ours, *rows) == pytest.approx(theirs(rows), abs=1e-6), type(ours)
    mixed = NearestNeighbours(2).mix(rows, np.random.default_rng(0))
    assert mixed == pytest.approx(byzfl.NNM(2)(rows))
    clipping, centre = byzfl.CenteredClipping(tau=3.0), np.zeros(20)
    for part in (rows[:5], rows[4:]):  # it keeps its centre from one call to the next
        bounded = [rule(CenteredClipping, 3.0).bound(row, centre) for row in part]
        centre = np.mean(bounded, axis=0)
        assert centre == pytest.approx(clipping(part))
