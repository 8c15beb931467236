"""Krum, Multi-Krum, Bulyan and the trimmed mean, by numbers worked out by hand and by a second formulation."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from serving import serve
from stock import found

from fl_bench.strategies.robust import Bulyan, FedTrimmedAvg, Krum, MultiKrum, nearest_to_median, scores

SENT = {"w": [10.0], "n.running_var": [1.0]}


def models(*updates: float) -> list[dict[str, list[float]]]:
    return [{"w": [10.0 + update], "n.running_var": [1.0 + abs(update)]} for update in updates]


def new(server: Any, *updates: float, weights: Sequence[int] = ()) -> list[float]:
    made = serve(server, SENT, models(*updates), weights)
    assert made is not None
    return [float(made[0]["w"][0]), float(made[0]["n.running_var"][0])]


def test_krum_by_hand() -> None:
    # of five with f = 1 the two nearest others count: 10, 5, 13, 36.25, 42.5
    assert new(Krum(1, 5), 0.0, 1.0, 3.0, 9.0, 9.5) == [11.0, 2.0]


def test_multikrum_averages_the_best_plainly_and_its_statistics_are_theirs() -> None:
    assert new(MultiKrum(1, 5, 2), 0.0, 1.0, 3.0, 9.0, 9.5, weights=[1, 9, 1, 1, 1]) == [10.5, 1.5]
    assert new(MultiKrum(1, 5, None), 0.0, 1.0, 3.0, 9.0, 9.5) == pytest.approx([13.25, 4.25])


def test_bulyan_by_hand() -> None:
    # f = 1 of seven: five are chosen, one after the other, and of them the three nearest to their median count.
    # Scores of 0, 1, 2, 3, 4, 50, 60 with the four nearest: 2 is the best (1 + 1 + 4 + 4 = 10);
    # then of 0, 1, 3, 4, 50, 60 with three: 1 (1 + 4 + 9 = 14; 3 has 1 + 4 + 9 too, and comes later);
    # of 0, 3, 4, 50, 60 with two: 3 (1 + 9 = 10); of 0, 4, 50, 60 with one: 0 (16; 4 has the same, and comes later);
    # of 4, 50, 60 with one: 50 (100).
    # The chosen 0, 1, 2, 3, 50 have the median 2, and nearest to it are 1, 2, 3.
    assert new(Bulyan(1, 7), 0.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0) == [12.0, 3.0]


def test_bulyan_selects_again_after_each_choice() -> None:
    # The five lowest scores of all at once are those of 15, 18, 19, 24 and 27, whose middle three have the mean 17.33.
    at = np.array([0.0, 5.0, 15.0, 18.0, 19.0, 24.0, 27.0])
    left = list(at)
    chosen: list[float] = []
    while len(chosen) < 5:  # a second formulation: the sums over subsets, the smallest of them
        others = {a: [(a - b) ** 2 for b in left if b != a] for a in left}
        count = max(1, len(left) - 3)
        best = min(left, key=lambda a: min(map(sum, combinations(others[a], min(count, len(others[a]))))))
        chosen.append(best)
        left.remove(best)
    assert sorted(chosen) == [0.0, 5.0, 18.0, 19.0, 24.0]
    assert new(Bulyan(1, 7), *at)[0] == pytest.approx(10 + (18 + 19 + 24) / 3, abs=1e-6)


@pytest.mark.parametrize("size", [1e-4, 1e-5, 1e-6])
def test_krum_finds_the_right_client_when_updates_are_small(size: float) -> None:
    assert found(lambda: Krum(1, 8), size, cases=20) == 20


def test_scores_are_of_others_only() -> None:
    same = np.zeros((4, 4))
    assert scores(same, 0).tolist() == [0, 0, 0, 0]


def test_nearest_to_median_by_hand() -> None:
    assert nearest_to_median(np.array([[0.0, 3.0], [4.0, 1.0], [5.0, 2.0], [90.0, 9.0]]), 2).tolist() == [4.5, 2.5]


def test_the_trimmed_mean_by_hand() -> None:
    assert new(FedTrimmedAvg(0.2, 5), -90.0, 1.0, 2.0, 3.0, 70.0)[0] == 12.0
    assert serve(FedTrimmedAvg(0.2, 5), SENT, models(-90.0, 1.0, 2.0, 70.0)) is None  # one has failed


@pytest.mark.parametrize(
    ("server", "answered"),
    [(Krum(1, 5), 4), (MultiKrum(1, 8, 6), 6), (Bulyan(1, 7), 6)],
    ids=["krum", "multi", "bulyan"],
)
def test_with_too_few_answers_the_old_model_stays(server: Any, answered: int) -> None:
    assert serve(server, SENT, models(*range(answered))) is None


@pytest.mark.parametrize(
    ("half", "given", "text"),
    [
        (Krum, {"num_malicious_nodes": 9}, "num_malicious_nodes=9: needs 21 clients a round or more"),
        (Krum, {"num_malicious_nodes": -3}, "num_malicious_nodes=-3: must be 0 or more"),
        (MultiKrum, {"num_malicious_nodes": 4, "num_nodes_to_select": 1}, "num_malicious_nodes=4: needs 11 clients"),
        (MultiKrum, {"num_malicious_nodes": 3, "num_nodes_to_select": 8}, "num_nodes_to_select=8: must be from 1 to 7"),
        (Bulyan, {"num_malicious_nodes": 2}, "num_malicious_nodes=2: needs 11 clients"),
        (FedTrimmedAvg, {"beta": 0.09}, "beta=0.09: cuts off none of 10 clients"),
        (FedTrimmedAvg, {"beta": 0.5}, "beta=0.5: must be from 0 to below 0.5"),
    ],
)
def test_what_could_not_defend_is_refused(half: Any, given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        half(clients_per_round=10, **given)
