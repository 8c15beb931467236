"""The works that contenders do: who trains on what."""

from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

SHAPE = (3, 32, 32)
LR, MOMENTUM = 0.03, 0.9


class Work(NamedTuple):
    """One epoch, or one step where `one_step`, of SGD at each of `cohort` clients a round."""

    about: str
    task: str
    clients: int
    samples: int  # of each client
    cohort: int
    batch_size: int
    rounds: int
    one_step: bool = False

    @property
    def data_mb(self) -> float:
        """Of the images, as uint8."""
        return self.clients * self.samples * prod(SHAPE) / 2**20


WORKS = {
    "A": Work("100 clients x 500 samples, 10 a round", "cifar", 100, 500, 10, 32, 10),
    "B": Work("1,000 clients x 50, 50 a round", "cifar", 1_000, 50, 50, 10, 10),
    "C": Work("10,000 clients x 50, 100 a round", "cifar", 10_000, 50, 100, 10, 6),
    "D": Work("1,000,000 clients x 1, 1,000 a round, logistic regression", "linear", 1_000_000, 1, 1_000, 1, 6),
    "E": Work("a model of 25 million parameters, 20 clients a round, a step each", "wide", 100, 32, 20, 32, 4, True),
}


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


def wide() -> nn.Module:
    """3072 x 4096 + 4096 x 3000 + 3000 x 10 weights, and biases: 24.9 million parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 4096), nn.ReLU(), nn.Linear(4096, 3000), nn.ReLU(), nn.Linear(3000, 10)
    )


MODELS = {"cifar": lenet, "linear": linear, "wide": wide}


def make_data(work: Work, folder: Path) -> None:
    """Random images and labels, client by client, and 500 to test."""
    generator = np.random.default_rng(0)
    for split, count in (("train", work.clients * work.samples), ("test", 500)):
        images = np.lib.format.open_memmap(folder / f"{split}.x.npy", "w+", np.uint8, (count, *SHAPE))
        for start in range(0, count, 50_000):
            part = images[start : start + 50_000]
            part[:] = generator.integers(256, size=part.shape, dtype=np.uint8)
        np.save(folder / f"{split}.y.npy", generator.integers(10, size=count))


def train(
    model: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64], work: Work, generator: np.random.Generator
) -> None:
    """The loop that everybody writes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    order = generator.permutation(len(labels))
    for rows in np.split(order, range(work.batch_size, len(order), work.batch_size)):
        x = torch.from_numpy(images[rows]).float().div_(255).sub_(0.5).div_(0.5)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.from_numpy(labels[rows])).backward()
        optimizer.step()
        if work.one_step:
            break
