"""Labels and amounts skewed at once: each as its distribution says, and equal sizes as another partition has them."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from fl_bench.data import partition
from fl_bench.data.mixes import dirichlet_sizes, mixed
from fl_bench.errors import ConfigError


def test_sizes_are_lognormal() -> None:
    """Shares of logs: their spread is sigma."""
    labels = np.zeros(2_000_000, int)
    for sigma in (0.5, 1.0):
        owners = dirichlet_sizes({"y": labels}, 2000, np.random.default_rng(0), alpha=1.0, sigma=sigma)
        logs = np.log(np.bincount(owners, minlength=2000))
        assert logs.std() == pytest.approx(sigma, rel=0.05)
        assert abs(np.mean((logs - logs.mean()) ** 3)) < 0.1 * max(sigma**3, 0.5)


def test_sizes_do_not_change_how_mixes_are_drawn() -> None:
    # of Dirichlet(alpha p), a share has mean p and variance p (1 - p) / (alpha + 1)
    labels = np.repeat([0, 1], [300_000, 100_000])
    first = []
    for seed in range(200):
        owners = dirichlet_sizes({"y": labels}, 40, np.random.default_rng(seed), alpha=2.0, sigma=0.5)
        first += [labels[owners == client].mean() for client in range(3)]
    assert np.mean(first) == pytest.approx(0.25, abs=0.03)
    assert np.var(first) == pytest.approx(0.25 * 0.75 / 3, rel=0.2)


def test_equal_sizes_are_those_of_dirichlet_equal() -> None:
    labels = np.random.default_rng(0).integers(5, size=1000)
    given = mixed(labels, [100] * 10, np.random.default_rng(3), alpha=0.4)
    assert (given == partition.dirichlet_equal({"y": labels}, 10, np.random.default_rng(3), alpha=0.4)).all()
    even = dirichlet_sizes({"y": labels}, 10, np.random.default_rng(3), alpha=0.4, sigma=0.0)
    assert np.bincount(even).tolist() == [100] * 10


def test_all_rows_are_given_however_skewed() -> None:
    labels = np.repeat([0, 1], [60, 40])
    owners = dirichlet_sizes({"y": labels}, 10, np.random.default_rng(0), alpha=1e-9, sigma=1000.0)
    assert sorted(np.bincount(owners, minlength=10)) == [0] * 9 + [100]


@pytest.mark.parametrize(("keys", "word"), [({"sigma": -1.0}, "sigma=-1.0"), ({"alpha": 0.0}, "alpha=0.0")])
def test_what_is_refused(keys: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"partition.{word}: must be")):
        dirichlet_sizes({"y": np.array([0, 1])}, 2, np.random.default_rng(0), **{"alpha": 1.0, "sigma": 1.0} | keys)


def test_a_run_says_who_holds_nothing(refused: Callable[..., str]) -> None:
    words = ("data=synthetic", "data.num_samples=100", "partition=dirichlet_sizes", "partition.sigma=100")
    assert "note: partition: " in (said := refused(*words, "evaluate.clients=true", "partition.holdout=0"))
    assert " of the 10 clients hold no sample" in said
