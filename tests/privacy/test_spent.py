"""What clients have told, against other accountants; and local noise, by hand."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from fl_bench.errors import ConfigError
from fl_bench.privacy.example import DPSGD
from fl_bench.privacy.local import LocalNoise
from fl_bench.privacy.spent import Spent
from fl_bench.strategies.server import SECRET_NOISE


@pytest.mark.parametrize(
    ("rows", "batch_size", "z", "turns", "steps", "renyi", "tight"),
    [  # of Opacus 1.6: by Renyi divergences, and PRV, which is tighter
        (60_000, 256, 1.1, 15, 235, 1.28270, 1.14547),  # MNIST in one place
        (60_000, 256, 1.1, 60, 235, 2.60034, 2.39527),
        (360, 32, 1.0, 30, 4, 7.63013, 6.82145),
        (40, 16, 2.0, 10, 3, 6.14600, 5.61770),
    ],
)
def test_epsilon_of_steps(
    rows: int, batch_size: int, z: float, turns: int, steps: int, renyi: float, tight: float
) -> None:
    found = DPSGD(0, 1.0, z, 1e-5).epsilon(turns, rows, batch_size, steps)
    assert tight < found == pytest.approx(renyi, rel=1e-3)
    assert found <= by_whole_orders(batch_size / rows, z, turns * steps) * (1 + 1e-6)


def by_whole_orders(q: float, z: float, steps: int, delta: float = 1e-5) -> float:
    """Mironov et al. 2019, arXiv:1908.10530, section 3.3; to epsilon by Canonne et al. 2020, arXiv:2004.00010, (13)."""
    found = math.inf
    for order in range(2, 200):
        terms = np.array([
            math.log(math.comb(order, k)) + (order - k) * math.log1p(-q) + k * math.log(q) + (k * k - k) / (2 * z * z)
            for k in range(order + 1)
        ])  # fmt: skip
        divergence = np.logaddexp.reduce(terms) / (order - 1)
        found = min(found, steps * divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return found


def test_a_client_with_fewer_rows_than_a_batch_uses_all_of_them() -> None:
    noise = DPSGD(0, 1.0, 2.0, 1e-5)
    assert noise.epsilon(3, 10, 32, 2) == noise.epsilon(6, 10, 10, 1)
    exact = of_normal_noise(2.0, 6)
    assert exact < noise.epsilon(3, 10, 32, 2) < 1.15 * exact


@pytest.mark.parametrize(("z", "turns"), [(1.0, 3), (4.0, 30)])
def test_epsilon_of_updates(z: float, turns: int) -> None:
    """Whatever the rows and steps; the exact one is a little less."""
    exact = of_normal_noise(z, turns)
    assert exact < LocalNoise(0, 1.0, z, 1e-5).epsilon(turns, 17, 4, 9) < 1.15 * exact


def of_normal_noise(z: float, times: int, delta: float = 1e-5) -> float:
    """Balle and Wang 2018, arXiv:1805.06530, theorem 8, by bisection."""
    mu, normal = math.sqrt(times) / z, NormalDist().cdf
    low, high = 0.0, 100.0
    for _ in range(60):
        epsilon = (low + high) / 2
        too_much = normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal(-mu / 2 - epsilon / mu) > delta
        low, high = (epsilon, high) if too_much else (low, epsilon)
    return high


def test_turns_are_counted_for_each_client() -> None:
    noise = DPSGD(0, 1.0, 1.0, 1e-5)
    spent = Spent(noise, np.array([100, 400, 0]), np.array([4, 16, 0]), 25)
    assert [spent.epsilon(client) for client in range(3)] == [0, 0, 0]
    assert spent.largest == 0
    spent.add([1])
    spent.add([0, 1])
    assert spent.epsilon(0) == noise.epsilon(1, 100, 25, 4)
    assert spent.epsilon(1) == noise.epsilon(2, 400, 25, 16)
    assert spent.largest == spent.epsilon(0) > spent.epsilon(1)
    again = Spent(noise, spent.rows, spent.steps, 25)
    again.__dict__.update(spent.__getstate__())
    assert [again.epsilon(client) for client in range(3)] == [spent.epsilon(client) for client in range(3)]
    assert Spent(LocalNoise(0, 1.0, 0.0, 1e-5), spent.rows, spent.steps, 25).epsilon(0, 1) == math.inf


START = np.array([1.0, 1.0, 1.0], np.float32)


def test_an_update_is_shortened_and_noised() -> None:
    long, short = (START + np.array(update, np.float32) for update in ([3, 4, 0], [0.3, 0.4, 0]))
    quiet = LocalNoise(0, 2.5, 0.0, 1e-5)
    assert quiet.sent(0, 1, START, long, {}).tolist() == [2.5, 3.0, 1.0]  # by a half
    assert quiet.sent(0, 1, START, short, {}).tolist() == short.tolist()
    assert quiet.sent(0, 1, START, START, {}).tolist() == [1, 1, 1]


def noise_of(round: int = 1, client: int = 2, told: Any = None) -> Any:
    start = np.zeros(100_000, np.float32)
    return LocalNoise(0, 2.5, 0.1, 1e-5).sent(client, round, start, start, told or {})


def test_the_noise_is_twice_the_norm_times_the_multiplier() -> None:
    assert noise_of().std() == pytest.approx(0.5, rel=0.01)  # 0.1 * 2 * 2.5
    assert abs(noise_of().mean()) < 4.5 * 0.5 / 100_000**0.5
    assert (noise_of() == noise_of()).all()
    for other in (noise_of(round=2), noise_of(client=1), noise_of(told={SECRET_NOISE: True})):
        assert (other - noise_of()).std() == pytest.approx(0.5 * 2**0.5, rel=0.02)  # independent


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.0, 1.0, 1e-5), "privacy.clip_norm=0.0: must be a positive number"),
        ((1.0, -1.0, 1e-5), "privacy.noise_multiplier=-1.0: must be a number from 0"),
        ((1.0, 1.0, 1.0), "privacy.delta=1.0: must be above 0 and below 1"),
    ],
)
def test_what_cannot_be(given: tuple[float, float, float], said: str) -> None:
    for kind in (DPSGD, LocalNoise):
        with pytest.raises(ConfigError, match=said):
            kind(0, *given)
