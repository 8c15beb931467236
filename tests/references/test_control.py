"""Algorithms that correct the drift of the clients by what they and the server remember. Means are by examples."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from harness import Outcome, agree, run
from world import KINDS, Vector, World


def two_of_three(world: World) -> bool:
    """Whether some client comes back after it has been away."""
    cohorts = [set(cohort) for _, cohort in world.rounds()]
    return {len(cohort) for cohort in cohorts} == {2} and bool(cohorts[0] & cohorts[2] - cohorts[1])


def scaffold(world: World, server_lr: float) -> Outcome:
    """Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1 with option II."""
    x, c = world.first, torch.zeros_like(world.first)
    variates: defaultdict[int, Vector] = defaultdict(lambda: torch.zeros_like(x))
    for round, cohort in world.rounds():
        ends, changes = [], []
        for k in cohort:
            y = x.clone()
            for batch in world.batches(round, k):
                y = world.step(y, world.gradient(y, batch) - variates[k] + c)
            new = torch.where(world.parameters, variates[k] - c + (x - y) / (world.steps(k) * world.lr), 0.0)
            changes.append(new - variates[k])
            ends.append(y)
            variates[k] = new
        p = torch.tensor([world.weight(k) for k in cohort]).double()
        p /= p.sum()
        mean = p @ torch.stack(ends)
        x = world.move(x, server_lr * (mean - x), mean)
        c = c + world.part(cohort) * (p @ torch.stack(changes))  # |S| / N times the mean change
    return Outcome(x, {k: {"variate": variate} for k, variate in variates.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_scaffold(kind: str, tmp_path: Path) -> None:
    real = run(tmp_path, kind, "strategy=scaffold", "strategy.server_lr=0.7", "clients_per_round=2")
    assert two_of_three(real.world)
    agree(real, scaffold(real.world, server_lr=0.7))


def feddyn(world: World, alpha: float) -> Outcome:
    """Acar et al. 2021, arXiv:2111.04263, algorithm 1; the minimum of a client's objective is sought by SGD."""
    w, h = world.first, torch.zeros_like(world.first)
    gradients: defaultdict[int, Vector] = defaultdict(lambda: torch.zeros_like(w))  # of L_k at its last model
    for round, cohort in world.rounds():
        ends = []
        for k in cohort:
            end = w.clone()
            for batch in world.batches(round, k):
                end = world.step(end, world.gradient(end, batch) - gradients[k] + alpha * (end - w))
            gradients[k] = torch.where(world.parameters, gradients[k] - alpha * (end - w), 0.0)
            ends.append(end)
        p = torch.tensor([world.weight(k) for k in cohort]).double()
        p /= p.sum()
        mean = p @ torch.stack(ends)
        h = h - alpha * world.part(cohort) * (mean - w)  # 1/m times the sum over the cohort
        w = world.move(mean, -h / alpha, mean)
    # What is kept where BatchNorm counts is used for nothing.
    kept = {k: {"gradient": torch.where(world.parameters, gradient, torch.nan)} for k, gradient in gradients.items()}
    return Outcome(w, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_feddyn(kind: str, tmp_path: Path) -> None:
    real = run(tmp_path, kind, "strategy=feddyn", "strategy.alpha=0.3", "clients_per_round=2")
    assert two_of_three(real.world)
    agree(real, feddyn(real.world, alpha=0.3))
