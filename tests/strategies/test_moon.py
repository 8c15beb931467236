import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from turns import make_turn

from fl_bench.strategies.moon import Contrastive, contrastive_loss
from fl_bench.strategies.turn import Turn


def test_the_term_by_hand() -> None:
    z, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert contrastive_loss(z, z, other, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))  # cosines 1 and 0
    assert contrastive_loss(z, other, z, 0.5).item() == pytest.approx(math.log(1 + math.exp(2)))
    assert contrastive_loss(z, other, other, 0.5).item() == pytest.approx(math.log(2))


def test_the_gradient_is_that_of_loss_and_term_together() -> None:
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(3, 5), nn.Tanh()), nn.Linear(5, 2)
    batch = {"x": torch.randn(4, 3), "y": torch.randn(4, 2)}
    turn = make_turn(nn.Sequential(body, head), [batch])
    turn.start.add_(torch.randn_like(turn.start))
    turn.state["previous"] = turn.start + torch.randn_like(turn.start)

    def representation(vector: torch.Tensor) -> torch.Tensor:
        tensors = turn.split(vector)
        return torch.tanh(functional.linear(batch["x"], tensors["0.0.weight"], tensors["0.0.bias"]))

    glob, previous = representation(turn.start), representation(turn.state["previous"])
    z = body(batch["x"])
    loss = (head(z) - batch["y"]).square().mean()
    towards, away = (torch.exp(functional.cosine_similarity(z, other) / 0.5) for other in (glob, previous))
    whole = loss - 2.0 * torch.log(towards / (towards + away)).mean()
    expected = torch.autograd.grad(whole, list(turn.model.parameters()))

    class Watched(Contrastive):
        def correct(self, turn: Turn) -> None:
            self.seen = turn.grad

    algorithm = Watched(mu=2.0, temperature=0.5)
    before = turn.parameters.clone()
    algorithm.begin(turn)
    algorithm.train(turn)
    assert torch.allclose(algorithm.seen, torch.cat([part.flatten() for part in expected]), atol=1e-6)
    assert torch.allclose(turn.parameters, before - 0.1 * algorithm.seen, atol=1e-6)  # and the step went from there
