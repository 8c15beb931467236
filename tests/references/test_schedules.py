"""Algorithms that choose who trains, and when: devices have log-normal speeds, see conf/network/heterogeneous.yaml."""

from functools import partial
from math import floor, log, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import table
from harness import Outcome, Real, agree, descend, federate, run
from world import KINDS, Vector, Visit, World

from fl_bench import rng


def seconds(world: World) -> list[float]:
    """How long a turn of each client takes: four bytes a number down, its steps, and as many bytes up."""
    draw = rng.generator(world.seed, "devices")
    step, up, down = (median * np.exp(draw.standard_normal(len(world.clients))) for median in (0.1, 1e6, 5e6))
    size = 4 * len(world.first)
    return [size / down[k] + world.steps(k) * step[k] + size / up[k] for k in world.clients]


def cohorts(real: Real) -> list[list[int]]:
    """Who took part in each round."""
    rows = [(int(row["round"]), int(row["client"])) for row in table(real.folder, "clients")]
    return [[client for number, client in rows if number == round] for round in range(1, rows[-1][0] + 1)]


class Flight(NamedTuple):
    """A client on its way, from the model that this many rounds have made."""

    lands: float  # virtual second
    client: int
    model: int
    again: bool  # its client had landed in this round before


def flights(world: World, buffer: int) -> tuple[list[list[Flight]], list[float]]:
    """The flights that count in each round, and when the rounds end: one event after the other.

    Who lands is idle at once, but who lands a second time in a round waits, and counts in the next one.
    """
    takes, now, ends = seconds(world), 0.0, list[float]()
    flying, waiting, rounds = list[Flight](), list[Flight](), [list[Flight]()]
    draws = [rng.generator(world.seed, "cohort", round) for round in range(world.cfg.num_rounds + 1)]

    def landed(client: int) -> bool:
        return client in {flight.client for flight in rounds[-1]}

    while len(ends) < world.cfg.num_rounds:
        idle = sorted(set(world.clients) - {flight.client for flight in flying + waiting})
        if room := min(world.cfg.clients_per_round - len(flying), len(idle)):
            started = sorted(draws[len(rounds)].choice(idle, room, replace=False, shuffle=False).tolist())
            flying += [Flight(now + takes[k], k, len(rounds) - 1, landed(k)) for k in started]
        now = min(flight.lands for flight in flying)
        for flight in [flight for flight in flying if flight.lands == now]:
            flying.remove(flight)
            (waiting if landed(flight.client) else rounds[-1]).append(flight)
            while len(rounds[-1]) == buffer:
                ends.append(now)
                rounds.append(waiting[:buffer])
                waiting = waiting[buffer:]
    return rounds[: world.cfg.num_rounds], ends[: world.cfg.num_rounds]


def fedbuff(world: World, rounds: list[list[Flight]], server_lr: float) -> Outcome:
    """Nguyen et al. 2022, arXiv:2106.06639, algorithm 1, with s = 1 / sqrt(1 + staleness); means are by examples."""
    models = [world.first]
    for round, counted in enumerate(rounds, start=1):
        total = sum(world.weight(flight.client) for flight in counted)
        update, mean = torch.zeros_like(world.first), torch.zeros_like(world.first)
        for _, k, model, _ in counted:
            w = descend(Visit(world, round, k, {}), models[model].clone())
            share = world.weight(k) / total
            update += share / sqrt(1 + round - 1 - model) * (w - models[model])
            mean += share * w
        models.append(world.move(models[-1], server_lr * update, mean))
    return Outcome(models[-1], {})


@pytest.mark.parametrize("kind", KINDS)
def test_fedbuff(kind: str, tmp_path: Path) -> None:
    words = ("strategy=fedbuff", "strategy.buffer=3", "strategy.server_lr=0.8", "network=heterogeneous")
    real = run(tmp_path, kind, *words, "num_clients=6", "clients_per_round=4", "num_rounds=10", "seed=10")
    rounds, ends = flights(real.world, buffer=3)
    assert cohorts(real) == [sorted(flight.client for flight in counted) for counted in rounds]
    assert [float(row["virtual_seconds"]) for row in table(real.folder, "metrics")[1:]] == pytest.approx(ends)
    counts = [(round, flight) for round, counted in enumerate(rounds, start=1) for flight in counted]
    waited = [flight for round, flight in counts if flight.lands < [0, *ends][round - 1]]
    assert {round - 1 - flight.model for round, flight in counts} == {0, 1, 2, 3, 4, 5}
    assert len(waited) > 3
    assert sum(flight.again for _, flight in counts) > len(waited), "all that start again are done in the same round"
    agree(real, fedbuff(real.world, rounds, server_lr=0.8))


SIX = ("num_clients=6", "clients_per_round=2", "num_rounds=8", "evaluate.every=8", "network=heterogeneous")


def note_loss(losses: dict[int, float], visit: Visit, w: Vector) -> Vector:
    """Gradient descent; the loss is the mean over the client's examples, each before its step."""
    total = 0.0
    for batch in visit.batches():
        total += float(visit.world.loss(w, batch)) * len(batch.y)
        w = visit.world.step(w, visit.world.gradient(w, batch))
    losses[visit.client] = total / visit.world.cfg.local.epochs / visit.world.weight(visit.client)
    return w


def test_tifl(tmp_path: Path) -> None:
    """Chai et al. 2020, arXiv:2001.09249, section 4: tiers by latency; odds here in proportion to a tier's loss."""
    real = run(tmp_path, "mlp", "strategy=tifl", "strategy.tiers=3", *SIX, "seed=6")
    world, losses = real.world, dict[int, float]()
    takes = seconds(world)
    ranked = sorted(world.clients, key=lambda k: takes[k])
    tiers = [ranked[:2], ranked[2:4], ranked[4:]]
    drawn = []

    def choose(round: int) -> list[int]:
        means = [np.mean([losses[k] for k in tier if k in losses] or np.nan) for tier in tiers]
        worst = 1.0 if np.isnan(means).all() else np.nanmax(means)
        odds = np.nan_to_num(means, nan=worst)
        drawn.append(int(rng.generator(world.seed, "tier", round).choice(3, p=odds / odds.sum())))
        return sorted(tiers[drawn[-1]])

    agree(real, federate(world, partial(note_loss, losses), cohort=choose))
    assert cohorts(real) == [sorted(tiers[tier]) for tier in drawn]
    equal = [int(rng.generator(world.seed, "tier", round).choice(3, p=[1 / 3] * 3)) for round in range(1, 9)]
    assert len(set(drawn)) == 3
    assert drawn != equal, "the odds have made no difference"


def pick(draw: np.random.Generator, odds: dict[int, float], count: int) -> list[int]:
    """So many clients, one after the other, in proportion to their odds."""
    share = np.array(list(odds.values())) / sum(odds.values())
    return draw.choice(list(odds), count, replace=False, p=share).tolist() if count else []  # type: ignore[no-any-return]


def oort(
    world: World,
    explore: float,
    explore_least: float,
    alpha: float,
    preferred: float,
    clip: float,
    cutoff: float,
    uncertainty: float = 0.1,
) -> tuple[Outcome, list[list[int]]]:
    """Lai et al. 2021, arXiv:2010.06081, algorithm 1; what a client's data can teach, U, is batches * loss.

    U is clipped and brought to 0..1 before uncertainty is added, as in the authors' FedScale, thirdparty/oort/oort.py.
    Also returns the cohorts.
    """
    count, takes = world.cfg.clients_per_round, seconds(world)
    pace = [min(1.0, np.quantile(takes, preferred) / t) ** alpha for t in takes]
    losses, asked, cohorts = dict[int, float](), dict[int, int](), list[list[int]]()

    def choose(round: int) -> list[int]:
        draw = rng.generator(world.seed, "cohort", round)
        new, known = [k for k in world.clients if k not in asked], sorted(asked)
        share = max(explore * 0.98 ** (round - 1), explore_least)
        newcomers = min(len(new), max(floor(count * share + 0.5), count - len(known)))
        chosen = pick(draw, {k: pace[k] for k in new}, newcomers)
        if others := count - newcomers:
            u = {k: world.steps(k) * losses[k] for k in known}
            least, most = min(u.values()), np.quantile(list(u.values()), clip)
            utility = {
                k: ((min(u[k], most) - least) / (most - least) + sqrt(uncertainty * log(round) / asked[k])) * pace[k]
                for k in known
            }
            enough = cutoff * sorted(utility.values(), reverse=True)[others - 1]
            chosen += pick(draw, {k: utility[k] for k in known if utility[k] >= enough}, others)
        asked.update(dict.fromkeys(chosen, round))
        cohorts.append(sorted(chosen))
        return cohorts[-1]

    return federate(world, partial(note_loss, losses), cohort=choose), cohorts


OORT = {"alpha": 0.5, "preferred": 0.4, "clip": 0.6, "cutoff": 0.8}
WITHOUT = (
    ("explore_least", 0.0),
    ("alpha", 0.0),
    ("preferred", 1.0),
    ("clip", 1.0),
    ("cutoff", 0.0),
    ("uncertainty", 0.0),
)


@pytest.mark.parametrize(
    ("explore", "explore_least", "newcomers"),
    [
        (0.130, 0.126, [4, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]),  # without the least it would be 0.4994 in round 3
        (0.385, 0.0, [4, 2, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]),  # 1.51 in round 2 and 1.48 in round 3
    ],
)
def test_oort(explore: float, explore_least: float, newcomers: list[int], tmp_path: Path) -> None:
    """Four of twelve; in round 1 all are new. Each option, and the term of uncertainty, changes who is asked."""
    options = {"explore": explore, "explore_least": explore_least, **OORT}
    words = ("num_clients=12", "clients_per_round=4", "num_rounds=12", "evaluate.every=12", "local.batch_size=2")
    given = [f"strategy.{name}={value}" for name, value in options.items()]
    real = run(tmp_path, "mlp", "strategy=oort", *given, *words, "network=heterogeneous", "seed=7")
    reference, chosen = oort(real.world, **options)
    assert cohorts(real) == chosen
    assert [len({*chosen[r]}.difference(*chosen[:r])) for r in range(12)] == newcomers
    for name, value in WITHOUT:
        if options.get(name) != value:
            assert oort(real.world, **options | {name: value})[1] != chosen, f"{name} has made no difference"
    agree(real, reference)
