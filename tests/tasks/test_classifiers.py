import numpy as np
import torch
from conftest import compose
from torch import nn

from fl_bench.build import build
from fl_bench.data.arrays import FederatedData
from fl_bench.tasks.cifar import Cifar
from fl_bench.tasks.mnist import Mnist

MNIST = build(compose("task=mnist").task, Mnist)
CIFAR = build(compose("task=cifar").task, Cifar)


class Fixed(nn.Module):
    """Says the same whatever it is shown."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.answer = torch.tensor(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.answer


def test_loss_and_accuracy_by_hand() -> None:
    # softmax of (0, 0) is (1/2, 1/2); of (log 3, 0) it is (3/4, 1/4)
    model = Fixed([[0.0, 0.0], [1.0986123, 0.0]])
    batch = {"x": torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "y": torch.tensor([1, 0])}
    loss, metrics = MNIST.objective(model, batch)
    expected = (0.6931472 + 0.2876821) / 2
    assert abs(loss.item() - expected) < 1e-6
    assert (round(float(metrics["loss"].total), 5), metrics["loss"].count) == (round(2 * expected, 5), 2)
    assert (float(metrics["accuracy"].total), metrics["accuracy"].count) == (1, 2)


def test_pixels_are_normalised_as_the_task_says() -> None:
    batch = {"x": torch.tensor([[[[0, 255]]]], dtype=torch.uint8)}
    assert MNIST.logits(nn.Identity(), batch).flatten().tolist() == [0, 1]
    assert CIFAR.logits(nn.Identity(), batch).flatten().tolist() == [-1, 1]


def test_the_models_have_the_sizes_of_their_sources() -> None:
    def data(*shape: int) -> FederatedData:
        return FederatedData({"x": np.zeros((1, *shape), np.uint8)}, {}, tuple("0123456789"))

    assert sum(p.numel() for p in MNIST.model(data(1, 28, 28)).parameters()) == 7850
    # PyTorch's 60-minute blitz: 3*6*25+6 + 6*16*25+16 + 400*120+120 + 120*84+84 + 84*10+10
    assert sum(p.numel() for p in CIFAR.model(data(3, 32, 32)).parameters()) == 62006
