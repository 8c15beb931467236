import numpy as np
import pytest
import torch
from conftest import Launch
from torch import nn
from turns import make_turn

from fl_bench.strategies.fedprox import FedProx, Proximal
from fl_bench.strategies.turn import Turn


def turn_with(mu: float) -> Turn:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    turn = make_turn(model, config={"proximal-mu": mu})
    turn.parameters.add_(torch.randn_like(turn.start))
    return turn


@pytest.mark.parametrize("mu", [0.0, 0.01, 3.0])
def test_the_correction_is_the_gradient_of_the_proximal_term(mu: float) -> None:
    turn, x = turn_with(mu), torch.randn(5, 3)
    starts = turn.split(turn.start)
    loss = turn.model(x).square().mean()
    distance = sum((p - starts[name]).square().sum() for name, p in turn.model.named_parameters())
    expected = torch.autograd.grad(loss + mu / 2 * distance, list(turn.model.parameters()), retain_graph=True)
    loss.backward()
    algorithm = Proximal()
    algorithm.begin(turn)
    algorithm.correct(turn)
    for parameter, gradient in zip(turn.model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_adaptive_mu_follows_the_training_loss() -> None:
    strategy = FedProx("adaptive")
    seen = []
    #         start rise rise five falls in a row        sixth fall, stay, rise
    for loss in (1.0, 1.1, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.7):
        strategy._adapt(loss)
        seen.append(strategy.proximal_mu)
    assert seen == [0.0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.2]


def test_adaptive_mu_never_falls_below_zero() -> None:
    strategy = FedProx("adaptive")
    for loss in np.linspace(1, 0.1, 20):
        strategy._adapt(float(loss))
    assert strategy.proximal_mu == 0


@pytest.mark.parametrize("mu", [-1.0, float("nan"), float("inf")])
def test_impossible_mu(mu: float) -> None:
    with pytest.raises(ValueError, match="mu="):
        FedProx(mu)


def test_adaptive_mu_is_written(launch: Launch) -> None:
    folder = launch("strategy=fedprox", "strategy.mu=adaptive", "num_rounds=2")
    assert (folder / "metrics.csv").read_text().split("\n")[0].split(",")[3] == "train_mu"
