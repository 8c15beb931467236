"""The server's optimisers, by numbers worked out by hand, and against Flower's where that is right."""

import math
from typing import Any

import pytest
from flwr.serverapp import strategy as flower
from serving import serve

from fl_bench.strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi


def walk(server: Any, *updates: float) -> list[float]:
    """Where one weight is after each round, from 0, if the mean update is this."""
    path, at = [], 0.0
    for round, update in enumerate(updates, 1):
        made = serve(server, {"w": [at]}, [{"w": [at + update]}], round=round)
        assert made is not None
        at = float(made[0]["w"][0])
        path.append(at)
    return path


def test_momentum_by_hand() -> None:
    # m = 1, then 0.5 + 2 = 2.5, then 1.25 - 1 = 0.25; each step is half of m
    assert walk(FedAvgM(0.5, 0.5), 1.0, 2.0, -1.0) == pytest.approx([0.5, 1.75, 1.875], abs=1e-6)


def test_adagrad_by_hand() -> None:
    # tau = 3, v from 9: 9 + 16 = 25, then 25 + 144 = 169; m is the update, beta_1 being 0
    assert walk(FedAdagrad(0.8, 3.0), 4.0, 12.0) == pytest.approx([0.4, 0.4 + 0.6], abs=1e-6)


def test_adam_by_hand() -> None:
    # tau = 1, v from 1: (1 + 9) / 2 = 5, then (5 + 4) / 2 = 4.5; m = 1.5, then 0.75 + 1 = 1.75; nothing is corrected
    first = 1.5 / (math.sqrt(5) + 1)
    path = walk(FedAdam(1.0, 1.0, 0.5, 0.5), 3.0, 2.0)
    assert path == pytest.approx([first, first + 1.75 / (math.sqrt(4.5) + 1)], abs=1e-6)


def test_yogi_by_hand() -> None:
    # tau = 1, v from 1: 1 + 0.25 * 9 = 3.25 (9 is more), then 3.25 - 0.25 * 1 = 3 (1 is less)
    first = 3 / (math.sqrt(3.25) + 1)
    assert walk(FedYogi(1.0, 1.0, 0.0, 0.75), 3.0, 1.0) == pytest.approx(
        [first, first + 1 / (math.sqrt(3) + 1)], abs=1e-6
    )


@pytest.mark.parametrize("half", [FedAvgM, FedAdagrad, FedAdam, FedYogi])
def test_statistics_become_their_mean(half: Any) -> None:
    server = half(0.9, 1.0) if half is FedAvgM else half(1.0, 1e-3)
    for _ in range(3):
        made = serve(
            server, {"w": [0.0], "n.running_var": [4.0]}, [{"w": [1.0], "n.running_var": [v]} for v in (1.0, 2.0)]
        )
        assert made is not None
        assert made[0]["n.running_var"].tolist() == [1.5]


def test_flowers_begin_elsewhere() -> None:
    """As docs/flower-differences.md says: v from 0, and a correction for that."""
    theirs = flower.FedAdam(eta=1.0, tau=1.0, beta_1=0.5, beta_2=0.5)
    assert walk(theirs, 3.0)[0] == pytest.approx(math.sqrt(0.75) / 0.75 * 1.5 / (math.sqrt(4.5) + 1), abs=1e-6)


@pytest.mark.parametrize(
    ("half", "given", "text"),
    [
        (FedAvgM, (1.0, 1.0), "server_momentum=1.0: must be from 0 to below 1"),
        (FedAvgM, (0.5, 0.0), "server_learning_rate=0.0: must be a positive number"),
        (FedAdam, (0.0, 1.0), "eta=0.0: must be a positive number"),
        (FedYogi, (1.0, 1.0, 0.0, 1.0), "beta_2=1.0: must be from 0 to below 1"),
    ],
)
def test_what_cannot_be_is_refused(half: Any, given: tuple[float, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        half(*given)
