"""Rules of the server, away from the settings in which they are FedAvg."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import Rule, State, agree, descend, federate, mean, run
from world import KINDS, Vector, Visit


def moved(state: State, direction: Vector, average: Vector) -> Vector:
    """A step along a direction [P]; statistics of BatchNorm become the average."""
    return torch.where(state["parameters"], state["sent"] + direction, average)


def with_momentum(models: Vector, weights: Vector, state: State) -> Vector:
    """Hsu et al. 2019, arXiv:1909.06335, section 4.3, with momentum 0.8 and rate 0.5."""
    average = mean(models, weights, state)
    state["velocity"] = 0.8 * state.get("velocity", 0) + (state["sent"] - average)
    return moved(state, -0.5 * state["velocity"], average)


def adaptive(second: Callable[[Vector, Vector], Vector], beta: float = 0.0) -> Rule:
    """Reddi et al. 2021, arXiv:2003.00295, algorithm 2, with eta 0.05 and tau 0.01."""

    def rule(models: Vector, weights: Vector, state: State) -> Vector:
        average = mean(models, weights, state)
        delta = average - state["sent"]
        state["m"] = beta * state.get("m", torch.zeros_like(delta)) + (1 - beta) * delta
        state["v"] = second(state.get("v", torch.full_like(delta, 0.01**2)), delta**2)
        return moved(state, 0.05 * state["m"] / (state["v"].sqrt() + 0.01), average)

    return rule


RATES = ("strategy.eta=0.05", "strategy.tau=0.01")
BETAS = ("strategy.beta_1=0.7", "strategy.beta_2=0.6")
OPTIMISERS = {
    "fedavgm": (("strategy.momentum=0.8", "strategy.lr=0.5"), with_momentum),
    "fedadagrad": (RATES, adaptive(lambda v, square: v + square)),
    "fedadam": ((*RATES, *BETAS), adaptive(lambda v, square: 0.6 * v + 0.4 * square, 0.7)),
    "fedyogi": ((*RATES, *BETAS), adaptive(lambda v, square: v - 0.4 * square * torch.sign(v - square), 0.7)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers(name: str, kind: str, tmp_path: Path) -> None:
    words, rule = OPTIMISERS[name]
    real = run(tmp_path, kind, f"strategy={name}", *words)
    agree(real, federate(real.world, rule=rule))


@pytest.mark.parametrize("kind", KINDS)
def test_each_client_the_same(kind: str, tmp_path: Path) -> None:
    real = run(tmp_path, kind, "weighting=uniform", "num_clients=3")
    agree(real, federate(real.world, rule=lambda models, weights, state: models.mean(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_qfedavg(kind: str, tmp_path: Path) -> None:
    """Li et al. 2020, arXiv:1905.10497, algorithm 2, with q = 1.5 and L = 1 / lr."""
    real = run(tmp_path, kind, "strategy=qfedavg", "strategy.q=1.5")
    losses: list[float] = []

    def client(visit: Visit, w: Vector) -> Vector:
        world = visit.world
        world.module.eval()
        losses.append(float(world.loss(w, world.batch(world.partition.train_rows(visit.client)))))
        world.module.train()
        return descend(visit, w)

    def rule(models: Vector, weights: Vector, state: State) -> Vector:
        big, q = 1 / real.world.lr, 1.5
        loss = torch.tensor(losses[-len(models) :]).double()
        delta = big * (state["sent"] - models) * state["parameters"]
        h = q * loss ** (q - 1) * (delta**2).sum(1) + big * loss**q
        return moved(state, -(loss**q @ delta) / h.sum(), mean(models, weights, state))

    agree(real, federate(real.world, client, rule))


def test_krum(tmp_path: Path) -> None:
    """Blanchard et al. 2017: of three with f = 0, the one whose nearest other is nearest; the first of equals."""
    real = run(tmp_path, "norm", "strategy=krum")
    world = real.world

    def rule(models: Vector, weights: Vector, state: State) -> Vector:
        updates = [(model - state["sent"])[state["parameters"]] for model in models]
        distances = [[float((a - b).square().sum()) for b in updates] for a in updates]
        scores = [min(d for k, d in enumerate(row) if k != i) for i, row in enumerate(distances)]
        best = min(range(len(scores)), key=lambda i: (round(scores[i], 9), i))
        return torch.where(state["parameters"], models[best], models.median(0).values)

    agree(real, federate(world, rule=rule))


def test_multikrum(tmp_path: Path) -> None:
    real = run(tmp_path, "norm", "strategy=multikrum", "strategy.num_selected=2")

    def rule(models: Vector, weights: Vector, state: State) -> Vector:
        updates = [(model - state["sent"])[state["parameters"]] for model in models]
        pairs = [(float((updates[i] - updates[j]).square().sum()), i, j) for i in range(3) for j in range(i)]
        _, i, j = min(pairs)  # each other's nearest: the two lowest scores
        return torch.where(state["parameters"], (models[i] + models[j]) / 2, models.median(0).values)

    agree(real, federate(real.world, rule=rule))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [("strategy=fedmedian",), ("strategy=fedtrimmedavg", "strategy.beta=0.34")])
def test_the_median_of_three(kind: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """Yin et al. 2018, arXiv:1803.01498; the mean of three but for the highest and the lowest is their median."""
    real = run(tmp_path, kind, *words)
    agree(real, federate(real.world, rule=lambda models, weights, state: models.median(0).values))


def test_centered_clipping(tmp_path: Path) -> None:
    """Karimireddy et al. 2021, arXiv:2012.10333, algorithm 2: one iteration, with radius 0.1."""
    real = run(tmp_path, "norm", "robust=centered_clipping", "robust.radius=0.1", "weighting=uniform")

    def rule(models: Vector, weights: Vector, state: State) -> Vector:
        updates, here = models - state["sent"], state["parameters"]
        centre = state.get("centre", torch.zeros_like(state["sent"]))
        away = (updates - centre) * here
        factors = (0.1 / away.norm(dim=1, keepdim=True)).clamp(max=1)
        assert (factors < 1).any()
        state["centre"] = (centre + (factors * away).mean(0)) * here
        return moved(state, state["centre"], models.mean(0))

    agree(real, federate(real.world, rule=rule))


@pytest.mark.parametrize("where", ["server", "client"])
def test_clipped(where: str, tmp_path: Path) -> None:
    """McMahan et al. 2018, arXiv:1710.06963: updates of at most 0.1, a fixed number of clients, here without noise."""
    words = ("strategy.noise_multiplier=0", "strategy.clipping_norm=0.1")
    real = run(tmp_path, "mlp", f"strategy=dp_{where}_fixed", *words)

    def rule(models: Vector, weights: Vector, state: State) -> Vector:
        updates = models - state["sent"]
        lengths = updates.norm(dim=1, keepdim=True)
        assert (lengths > 0.1).any()
        return torch.as_tensor(state["sent"] + (updates * (0.1 / lengths).clamp(max=1)).sum(0) / 3)

    agree(real, federate(real.world, rule=rule))


@pytest.mark.parametrize("where", ["server", "client"])
def test_clipped_by_a_norm_that_follows(where: str, tmp_path: Path) -> None:
    """Andrew et al. 2021, arXiv:1905.03871, algorithm 1, without noise: quantile 0.7, rate 0.5."""
    words = ("strategy.noise_multiplier=0", "strategy.initial_clipping_norm=0.6", "strategy.norm_lr=0.5")
    real = run(tmp_path, "mlp", f"strategy=dp_{where}_adaptive", *words, "strategy.target_clipped_quantile=0.7")
    norms: list[float] = []

    def rule(models: Vector, weights: Vector, state: State) -> Vector:
        norm = state.get("norm", 0.6)
        norms.append(norm)
        updates = models - state["sent"]
        lengths = updates.norm(dim=1, keepdim=True)
        below = float((lengths <= norm).double().mean())
        state["norm"] = norm * torch.exp(torch.tensor(-0.5 * (below - 0.7))).item()
        return torch.as_tensor(state["sent"] + (updates * (norm / lengths).clamp(max=1)).mean(0))

    agree(real, federate(real.world, rule=rule))
    assert [float(row["clipping_norm"]) for row in real.rows("metrics")] == pytest.approx(norms[-1:], rel=1e-6)
    assert len(set(norms)) == 3
