"""Poisson cohorts: of the right size on average, and each client for itself."""

from typing import Any

import numpy as np
from conftest import compose

from fl_bench.build import build
from fl_bench.network.clock import Network
from fl_bench.network.poisson import Poisson
from fl_bench.network.schedule import Schedule


def schedule(num_clients: int, clients_per_round: int, seed: int = 0) -> Schedule:
    network: Any = compose().network
    steps = np.ones(num_clients, np.int64)
    network = build(network, Network, seed=seed, steps=steps, bytes_down=1, bytes_up=1)
    return Poisson(network, clients_per_round)


def test_as_many_as_should_be_and_independently() -> None:
    drawn = schedule(40, 10)
    taken = np.zeros((2000, 40))
    for round in range(2000):
        taken[round, drawn.plan(round).asked] = 1
    sizes = taken.sum(axis=1)
    # binomial: mean 10 and variance 40 * 0.25 * 0.75 = 7.5, which a cohort of fixed size would not have
    assert abs(sizes.mean() - 10) < 0.25
    assert abs(sizes.var() - 7.5) < 0.9
    between = np.corrcoef(taken.T) - np.eye(40)
    assert np.abs(between).max() < 0.1
    assert np.abs(taken.mean(axis=0) - 0.25).max() < 0.04


def test_everybody_and_nobody() -> None:
    assert schedule(5, 5).plan(1).asked == [0, 1, 2, 3, 4]
    sizes = [len(schedule(5, 1).plan(round).asked) for round in range(40)]
    assert 0 in sizes
