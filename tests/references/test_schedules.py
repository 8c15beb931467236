"""Algorithms that choose who trains, and when: devices have log-normal speeds, see conf/network/heterogeneous.yaml."""

from functools import partial
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import table
from harness import Outcome, Real, agree, federate, run
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


def fedbuff(world: World, buffer: int, server_lr: float) -> tuple[Outcome, list[dict[int, int]]]:
    """Nguyen et al. 2022, arXiv:2106.06639, algorithm 1, with s = 1 / sqrt(1 + staleness); means are by examples.

    Nobody ends two turns in a round. Also returns the staleness of each round's clients.
    """
    takes, now, models, staleness = seconds(world), 0.0, [world.first], list[dict[int, int]]()
    training: dict[int, tuple[float, int]] = {}  # until when, and from which model
    for round in range(1, world.cfg.num_rounds + 1):
        draw, done = rng.generator(world.seed, "cohort", round), dict[int, int]()
        while len(done) < buffer:
            idle = [k for k in world.clients if k not in training and k not in done]
            if room := min(world.cfg.clients_per_round - len(training), len(idle)):
                started = draw.choice(idle, room, replace=False, shuffle=False)
                training |= {int(k): (now + takes[k], round - 1) for k in sorted(started)}
            first = min(training, key=lambda k: training[k][0])
            now, done[first] = training.pop(first)
        total = sum(map(world.weight, done))
        update, mean = torch.zeros_like(world.first), torch.zeros_like(world.first)
        for k, version in done.items():
            w = models[version].clone()
            for batch in world.batches(round, k):
                w = world.step(w, world.gradient(w, batch))
            share = world.weight(k) / total
            update += share / np.sqrt(1 + round - 1 - version) * (w - models[version])
            mean += share * w
        models.append(world.move(models[-1], server_lr * update, mean))
        staleness.append({k: round - 1 - version for k, version in done.items()})
    return Outcome(models[-1], {}), staleness


@pytest.mark.parametrize("kind", KINDS)
def test_fedbuff(kind: str, tmp_path: Path) -> None:
    words = ("strategy=fedbuff", "strategy.buffer=2", "strategy.server_lr=0.8", "clients_per_round=2", "num_rounds=8")
    real = run(tmp_path, kind, *words, "network=heterogeneous", "seed=0")
    reference, staleness = fedbuff(real.world, buffer=2, server_lr=0.8)
    assert cohorts(real) == [sorted(done) for done in staleness]
    assert {0, 1, 2} <= {late for done in staleness for late in done.values()}
    agree(real, reference)


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


def test_oort(tmp_path: Path) -> None:
    """Lai et al. 2021, arXiv:2010.06081, algorithm 1 and equation 1; what a client's data can teach is batches * loss.

    Newcomers are chosen by their pace; of the others, those of the highest utility.
    """
    real = run(tmp_path, "mlp", "strategy=oort", "strategy.alpha=1.5", "strategy.explore=0.6", *SIX, "seed=7")
    world, losses, asked = real.world, dict[int, float](), dict[int, int]()
    takes = seconds(world)
    preferred = np.median(takes)
    pace = [min(1.0, (preferred / t) ** 1.5) for t in takes]

    def choose(round: int) -> list[int]:
        def utility(k: int) -> float:
            return (world.steps(k) * losses[k] + sqrt(0.1 * log(round) / asked[k])) * pace[k]

        new, known = [k for k in world.clients if k not in asked], [k for k in world.clients if k in asked]
        count = min(len(new), max(int(2 * 0.6 * 0.98 ** (round - 1) + 0.5), 2 - len(known)))
        odds = np.array([pace[k] for k in new])
        draw = rng.generator(world.seed, "cohort", round)
        newcomers = draw.choice(new, count, replace=False, p=odds / odds.sum()).tolist() if count else []
        chosen = newcomers + sorted(known, key=utility, reverse=True)[: 2 - count]
        asked.update(dict.fromkeys(chosen, round))
        return sorted(chosen)

    agree(real, federate(world, partial(note_loss, losses), cohort=choose))
    assert len(asked) == 6
    assert len({tuple(cohort) for cohort in cohorts(real)[6:]}) > 1, "those of the highest utility change"
