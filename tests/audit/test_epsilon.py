"""The bound of epsilon by canaries: by hand, by trials, and in runs whose epsilon is known from the other side."""

import math

import numpy as np
import pytest
from conftest import Launch, long, often, table
from scipy.stats import binomtest

from fl_bench import commands
from fl_bench.audit.canaries import at_least, guessed, p_value
from fl_bench.errors import ConfigError


def test_how_likely_guesses_are_by_hand() -> None:
    """With epsilon log 3 a guess is right three times out of four: W is 2, 1, 0 with 9, 6 and 1 sixteenths.

    Two right: the largest of P[W = 1] / 1 and P[W < 2] / 2 is 6 / 16, and delta counts with 2 * 5 * 0.01 of it.
    """
    assert p_value(5, 2, 2, math.log(3), 0.01) == pytest.approx(9 / 16 + 0.1 * 6 / 16)
    assert p_value(5, 2, 1, math.log(3), 0.01) == pytest.approx(15 / 16 + 0.1 * 1 / 16)
    assert p_value(5, 2, 0, math.log(3), 0.01) == 1
    assert p_value(5, 2, 2, 0.0, 0.5) == 1  # not above 1


@pytest.mark.parametrize("right", [0, 55, 75, 100])
def test_without_delta_it_is_a_binomial_test(right: int) -> None:
    """The paper has 0.553 for 75 of 100 and epsilon log 3 (appendix D)."""
    exact = binomtest(right, 100, 0.75, alternative="greater").pvalue
    assert p_value(100, 100, right, math.log(3), 0.0) == pytest.approx(exact)
    assert right != 75 or round(exact, 3) == 0.553


def test_the_bound_is_where_five_percent_are() -> None:
    bound = at_least(1000, 100, 90, 1e-5)
    assert p_value(1000, 100, 90, bound, 1e-5) == pytest.approx(0.05)
    assert at_least(1000, 100, 90, 1e-3) < bound < at_least(1000, 100, 95, 1e-5)
    assert at_least(1000, 100, 55, 1e-5) == 0
    assert at_least(1000, 100, 100, 0.1) == 0  # delta alone explains it


def test_the_highest_and_the_lowest_are_guessed() -> None:
    scores = np.arange(12.0)[::-1]  # the first two are guessed to be in, the last two to be out
    inside = np.zeros(12, bool)
    inside[[0, 5, 11]] = True
    found = guessed(scores, inside, 0.0)
    assert (found.guesses, found.right) == (4, 2)
    assert (found.epsilon, found.most) == (0, at_least(12, 4, 4, 0.0))


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_bound_holds_in_19_of_20_trials_and_is_not_idle(epsilon: float) -> None:
    """Coins that are told as they are with probability e^epsilon / (1 + e^epsilon): nothing tells more of them."""
    draws = np.random.default_rng(0)
    inside = draws.random((300, 300)) < 0.5
    told = inside == (draws.random(inside.shape) < 1 / (1 + math.exp(-epsilon)))
    scores = told + 0.1 * draws.random(inside.shape)
    bounds = np.array([guessed(*pair, 0.0).epsilon for pair in zip(scores, inside, strict=True)])
    assert 0.91 < (bounds <= epsilon).mean() < 0.99
    assert bounds.mean() > 0.3 * epsilon


SMALL = ("data=synthetic", "data.num_samples=800", "num_rounds=2", "checkpoint.every=0")
CLIENTS = (*SMALL, "num_clients=60", "partition.holdout=0", "local.steps=1")
CASES = {
    "replaced": ("strategy=dp_server_fixed", "strategy.noise_multiplier={}"),
    "left out": ("strategy=dp_client_adaptive", "strategy.sampling=poisson", "strategy.noise_multiplier={}"),
    "local": ("privacy=local", "privacy.noise_multiplier={}"),
    "rows": (
        "privacy=example",
        "num_clients=20",
        "local.batch_size=40",
        "local.steps=8",
        "privacy.noise_multiplier={}",
    ),
}


def bounds(launch: Launch, case: str, noise: float, *words: str) -> dict[str, float]:
    run = launch(*CLIENTS, *(word.format(noise) for word in CASES[case]), *words)
    assert commands.call("audit", [str(run), "--what", "canaries", "--canaries", "60"]) == 0
    planted = table(run / "audit", "canaries")
    assert 10 < sum(row["inside"] == "1" for row in planted) < 50
    assert len({row["client"] for row in planted}) == (20 if case == "rows" else 60)
    found = {row["number"]: float(row["value"]) for row in table(run / "audit", "audit")}
    assert found["epsilon_at_most"] == float(table(run, "metrics")[-1]["epsilon"])
    return found


@pytest.mark.parametrize("case", often(["replaced", "left out", "local", "rows"], "left out", "local"))
def test_with_hardly_any_noise_nearly_all_is_seen(launch: Launch, case: str) -> None:
    found = bounds(launch, case, 0.01)
    assert found["right"] > 0.9
    assert found["epsilon_at_least"] > 0.8
    assert found["epsilon_at_least"] <= found["if_all_were_right"] == pytest.approx(at_least(60, 20, 20, 1e-5))


@long
@pytest.mark.parametrize("case", CASES)
def test_the_bound_is_below_the_accountants_in_19_of_20_runs(launch: Launch, case: str) -> None:
    runs = [bounds(launch, case, 1.0, f"seed={seed}") for seed in range(20)]
    assert sum(found["epsilon_at_least"] <= found["epsilon_at_most"] for found in runs) >= 19
    assert max(found["epsilon_at_most"] for found in runs) < 30


@pytest.mark.parametrize(
    ("words", "count", "why"),
    [
        ((), "60", "--canaries 60: the run has no epsilon; strategy=dp_"),
        (("privacy=local",), "29", "--canaries 29: must be 30 or more"),
        (("privacy=local", "attack=sign_flip"), "60", "--canaries 60: take the place of an attack, and this run has"),
        (("strategy=dp_client_fixed",), "61", "--canaries 61: each is a client, and the run has 60"),
    ],
)
def test_where_there_can_be_none(launch: Launch, words: tuple[str, ...], count: str, why: str) -> None:
    run = launch(*CLIENTS, "num_rounds=1", *words)
    with pytest.raises(ConfigError) as error:
        commands.call("audit", [str(run), "--canaries", count])
    assert str(error.value).startswith(why)
    assert not (run / "audit").exists()
