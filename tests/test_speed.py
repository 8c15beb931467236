"""A guard: the machinery around local training costs little. Loose, for machines that are busy otherwise."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import table
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

CLIENTS, SAMPLES, BATCH = 20, 50, 10


def bare_round(model: nn.Module, images: np.ndarray, labels: np.ndarray, start: torch.Tensor) -> torch.Tensor:
    """What everybody would write."""
    total = torch.zeros_like(start)
    for client in range(CLIENTS):
        vector_to_parameters(start.clone(), model.parameters())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
        order = client * SAMPLES + np.random.default_rng(client).permutation(SAMPLES)
        for rows in np.split(order, range(BATCH, SAMPLES, BATCH)):
            x = torch.from_numpy(images[rows]).float().div_(255).sub_(0.5).div_(0.5)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.from_numpy(labels[rows])).backward()
            optimizer.step()
        total += parameters_to_vector(model.parameters()).detach()
    return total / CLIENTS


@pytest.mark.alone
def test_a_round_takes_hardly_longer_than_the_bare_loop(launch: Callable[..., Path]) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(CLIENTS * SAMPLES, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(10, size=CLIENTS * SAMPLES)
    start, bare = parameters_to_vector(model.parameters()).detach(), []
    for _ in range(6):
        begin = time.perf_counter()
        bare_round(model, images, labels, start)
        bare.append(time.perf_counter() - begin)
    run = launch(
        "task=cifar", "data=synthetic", f"data.num_samples={CLIENTS * SAMPLES}", f"num_clients={CLIENTS}",
        "partition.holdout=0", f"local.batch_size={BATCH}", "num_rounds=8",
    )  # fmt: skip
    ours = [float(row["train_seconds"]) + float(row["aggregate_seconds"]) for row in table(run, "timing")[2:]]
    assert min(ours) < 1.5 * min(bare)  # 0.9 to 1.1 is usual
