"""Who is asked, by TiFL and Oort: by hand, on clients of known speed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, make_network

from fl_bench.errors import RunError
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Schedule
from fl_bench.strategies.fedbuff import Buffered
from fl_bench.strategies.oort import Guided
from fl_bench.strategies.tifl import Tiers


def network(tmp_path: Path, seconds: Sequence[float], steps: Sequence[int] | None = None, **given: Any) -> Network:
    """Clients whose only step takes so long."""
    rows = "".join(f"{client},{s},inf,inf,,\n" for client, s in enumerate(seconds))
    return make_network(tmp_path, rows, steps or [1] * len(seconds), (1, 1), **{"repeat": False} | given)


def guided(network: Network, clients_per_round: int, explore: float = 0, **given: Any) -> Guided:
    shares = {"explore_least": 0.0, "alpha": 1.0, "preferred": 0.5, "clip": 1.0, "cutoff": 0.0}
    return Guided(network, clients_per_round, explore, **shares | given)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: Tiers(net, 3, tiers=2),
        lambda net: guided(net, 3, explore=0.9),
        lambda net: guided(net, 3, explore=0),
        lambda net: Buffered(net, 3, 3),
    ],
    ids=["tifl", "oort", "oort-exploit", "fedbuff"],
)
def test_clients_without_samples_are_not_asked(tmp_path: Path, make: Callable[[Network], Schedule]) -> None:
    schedule = make(network(tmp_path, [1, 2, 3, 4, 5, 6], steps=[1, 0, 1, 0, 1, 1]))
    for round in range(1, 20):
        plan = schedule.plan(round)
        assert not {1, 3} & set(plan.asked)
        assert len(plan.asked) == 3
        schedule.learn(round, dict.fromkeys(plan.asked, 1.0))


@pytest.mark.parametrize("kind", [Schedule, lambda n, k: Tiers(n, k, 2), lambda n, k: guided(n, k, 0.9)])
def test_nobody_is_there_any_more(tmp_path: Path, kind: Callable[[Network, int], Schedule]) -> None:
    """Client 2 has no samples, and is there for ever."""
    schedule = kind(network(tmp_path, [1, 2, 1], steps=[1, 1, 0]), 3)
    schedule.network.devices = replace(schedule.network.devices, available_to=np.array([5.0, 5.0, np.inf]))
    assert [len({0, 1} & set(schedule.plan(round).asked)) for round in range(1, 4)] == [2, 2, 2]
    with pytest.raises(RunError, match=r"round 4: .* after virtual second 5;"):
        schedule.plan(4)


def test_oort_asks_those_who_never_answer_less(tmp_path: Path) -> None:
    """Half take 50 seconds, longer than the deadline: each counts (25.5 / 50)^2, a quarter of one that is in time."""
    schedule = guided(network(tmp_path, [1] * 5 + [50] * 5, deadline_s=10), 2, explore=0.5, alpha=2)
    dropped = []
    for round in range(1, 401):
        plan = schedule.plan(round)
        dropped.append(len(plan.dropping))
        schedule.learn(round, dict.fromkeys(set(plan.asked) - set(plan.dropping), 1.0))
    assert np.mean(dropped[100:]) < 2 * 0.25


def test_tiers_are_of_like_speed(tmp_path: Path) -> None:
    schedule = Tiers(network(tmp_path, [5, 1, 3, 2, 6, 4]), 2, tiers=3)
    assert schedule.tier.tolist() == [2, 0, 1, 0, 2, 1]
    asked = {tuple(schedule.plan(round).asked) for round in range(1, 30)}
    assert asked == {(1, 3), (2, 5), (0, 4)}


def test_a_tier_with_a_high_loss_is_chosen_more_often(tmp_path: Path) -> None:
    schedule = Tiers(network(tmp_path, [1, 1, 9, 9]), 2, tiers=2)
    schedule.learn(1, {0: 1.0, 1: 1.0, 2: 3.0, 3: 3.0})
    slow = sum(schedule.plan(round).asked == [2, 3] for round in range(1, 401))
    assert slow / 400 == pytest.approx(0.75, abs=0.09)  # 4 deviations


def test_a_tier_that_is_too_small_gets_help_from_its_neighbours(tmp_path: Path) -> None:
    schedule = Tiers(network(tmp_path, [1, 2, 3, 4]), 3, tiers=4)
    assert {tuple(schedule.plan(round).asked) for round in range(1, 40)} == {(0, 1, 2), (1, 2, 3)}


def test_one_tier_is_a_uniform_sample(tmp_path: Path) -> None:
    plain, tier = Schedule(network(tmp_path, [1] * 9), 3), Tiers(network(tmp_path, [1] * 9), 3, tiers=1)
    for round in range(1, 6):
        tier.learn(round, {round: float(round)})
        assert plain.plan(round).asked == tier.plan(round).asked


def test_oorts_utility_by_hand(tmp_path: Path) -> None:
    """The median client takes 2 seconds; with alpha 1, client 3 of 8 seconds counts a quarter."""
    schedule = guided(network(tmp_path, [1, 2, 2, 8, 2, 1]), 2, clip=0.5)
    assert schedule.pace.tolist() == [1, 1, 1, 0.25, 1, 1]
    schedule.heard[:5] = [1, 1, 4, 1, 1]
    schedule.learn(1, {0: 1.0, 1: 2.0, 2: 3.0, 3: 9.0})
    # 1, 2, 3 and 9 are clipped at their median, 2.5: 0, 2/3, 1 and 1. Client 4 has not answered: their mean, 2/3.
    long, short = np.sqrt(0.1 * np.log(5)), np.sqrt(0.1 * np.log(5) / 4)  # since they were asked, in round 5
    expected = [long, 2 / 3 + long, 1 + short, (1 + long) / 4, 2 / 3 + long]
    assert schedule._utility(5)[:5] == pytest.approx(expected)


def test_oort_counts_batches_and_takes_equals_for_the_best(tmp_path: Path) -> None:
    schedule = guided(network(tmp_path, [1, 1, 1], steps=[4, 1, 2]), 1, alpha=0)
    schedule.learn(1, {0: 0.5, 1: 2.0, 2: 1.0})
    assert schedule._utility(1).tolist() == [1, 1, 1]
    schedule.learn(1, {2: 2.0})
    assert schedule._utility(1).tolist() == [0, 0, 1]
    schedule.learn(1, {0: float("nan"), 1: float("inf")})
    assert schedule._utility(1).tolist() == [1, 1, 1]


def drawn(tmp_path: Path, losses: Sequence[float], count: int, draws: int = 200, **given: Any) -> list[float]:
    """How often each client is among those chosen; in round 1 it does not matter when it was asked last."""
    schedule, times = guided(network(tmp_path, [1] * len(losses)), count, **given), np.zeros(len(losses))
    schedule.learn(1, dict(enumerate(losses)))
    for seed in range(draws):
        schedule.network.seed, schedule.heard[:] = seed, 1
        times[schedule.choose(1, np.arange(len(losses)), count)] += 1
    return list(times / draws)


def test_oorts_odds_by_hand(tmp_path: Path) -> None:
    """In proportion to utility, one after another; four deviations of 3000 draws are 0.037 at most."""
    assert drawn(tmp_path, [1, 2, 3], 1, 3000) == pytest.approx([0, 1 / 3, 2 / 3], abs=0.037)
    # 0, 1/2, 1 and 1/2: client 2 is first with odds 1/2, and second after either of the others with 1 / (1 + 1/2)
    assert drawn(tmp_path, [1, 2, 3, 2], 2, 3000) == pytest.approx([0, 7 / 12, 5 / 6, 7 / 12], abs=0.037)


def test_oort_draws_from_the_best(tmp_path: Path) -> None:
    """Utilities are 0, 1/2, 3/4 and 1."""
    losses = [1, 3, 4, 5]
    assert drawn(tmp_path, losses, 1, cutoff=1) == [0, 0, 0, 1]
    assert drawn(tmp_path, losses, 2, cutoff=1) == [0, 0, 1, 1]
    assert drawn(tmp_path, losses, 1, 3000, cutoff=0.75) == pytest.approx([0, 0, 3 / 7, 4 / 7], abs=0.037)
    assert drawn(tmp_path, losses, 1, cutoff=0.76) == [0, 0, 0, 1]
    third = drawn(tmp_path, losses, 2, cutoff=0.6)  # of the second, 0.45: three can be drawn
    assert third[0] == 0
    assert min(third[1:]) > 0.3
    assert drawn(tmp_path, losses, 4, cutoff=1) == [1, 1, 1, 1]


def test_oort_goes_on_asking_newcomers(tmp_path: Path) -> None:
    schedule = guided(network(tmp_path, [1] * 20), 10, explore=0.9, explore_least=0.3, alpha=2)

    def newcomers(round: int, heard: int) -> int:
        schedule.heard[:] = [1] * heard + [0] * (20 - heard)
        schedule.choose(round, np.arange(20), 10)
        return int(np.count_nonzero(schedule.heard[heard:]))

    assert newcomers(1, heard=10) == 9
    assert newcomers(30, heard=10) == 5  # 9 * 0.98^29 = 5.009
    assert newcomers(300, heard=10) == 3
    assert newcomers(1, heard=0) == 10  # there is nobody else
    assert newcomers(300, heard=2) == 8
    assert newcomers(1, heard=18) == 2
    assert newcomers(300, heard=20) == 0


def test_oort_does_not_stick_to_a_few(tmp_path: Path) -> None:
    """Five of fifty have 10 % of the turns where all are equal; losses that stay as they are must not make it 40."""
    generator = np.random.default_rng(0)
    seconds, losses = np.exp(generator.standard_normal(50)), np.exp(generator.standard_normal(50))
    least = {"explore_least": 0.2, "alpha": 2.0, "clip": 0.95, "cutoff": 0.05}
    schedule, turns = guided(network(tmp_path, seconds.tolist()), 10, explore=0.9, **least), np.zeros(50)
    for round in range(1, 61):
        asked = schedule.plan(round).asked
        turns[asked] += 1
        schedule.learn(round, {client: losses[client] for client in asked})
    assert np.sort(turns)[-5:].sum() / turns.sum() < 0.3
    assert turns.min() > 0


def test_oort_hears_everybody_once(tmp_path: Path) -> None:
    schedule = guided(network(tmp_path, [1, 2, 3, 4, 5, 6]), 2, explore=1, alpha=2)
    heard: set[int] = set()
    for round in (1, 2, 3):
        asked = schedule.plan(round).asked
        assert not heard & set(asked)
        heard |= set(asked)
        schedule.learn(round, dict.fromkeys(asked, 1.0))
    assert heard == set(range(6))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("strategy=tifl", "strategy.tiers=0"), "strategy.tiers=0: must be 1 or more"),
        (("strategy=oort", "strategy.explore=2"), "strategy.explore=2: must be from 0 to 1"),
        (("strategy=oort", "strategy.explore=0.1"), "strategy.explore_least=0.2: must be from 0 to explore=0.1"),
        (("strategy=oort", "strategy.cutoff=-1"), "strategy.cutoff=-1: must be from 0 to 1"),
    ],
)
def test_mistakes(launch: Launch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str) -> None:
    launch(*words, exit_code=2)
    assert line in capsys.readouterr().err
