"""Small colour images by the CNN of PyTorch's 60-minute blitz (conv 3-6-16 with kernels of 5, then 120-84-10)."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from numpy.typing import NDArray
from torch import nn

from fl_bench.data import sources
from fl_bench.data.arrays import Columns, FederatedData
from fl_bench.errors import ConfigError
from fl_bench.tasks.base import Batch, ImageClassifier

NORMS: dict[str | None, Callable[[int], list[nn.Module]]] = {
    None: lambda channels: [],
    "batch": lambda channels: [nn.BatchNorm2d(channels)],
    "group": lambda channels: [nn.GroupNorm(2, channels)],
}


class Cifar(ImageClassifier):
    mean = 0.5
    std = 0.5

    def __init__(self, norm: Literal["batch", "group"] | None) -> None:
        self.norm = NORMS[norm]

    def model(self, data: FederatedData) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 6, 5), *self.norm(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), *self.norm(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, len(data.classes)),
        )  # fmt: skip

    def gather(self, columns: Columns, rows: NDArray, device: torch.device | str) -> Batch:
        batch = dict(super().gather(columns, rows, device))
        if device == "cpu":  # where convolutions are faster with the channels of a pixel side by side
            batch["x"] = batch["x"].contiguous(memory_format=torch.channels_last)
        return batch

    def load_embedded(self, folder: Path) -> FederatedData:
        return sources.digits_on_photos(copies=1)

    def load_full(self, folder: Path, root: str | None, dataset: str | None) -> FederatedData:
        if dataset not in (None, "CIFAR10"):
            raise ConfigError(f"data.dataset={dataset}: task cifar knows CIFAR10 only")
        return sources.torchvision_images("CIFAR10", root, (3, 32, 32))

    def load_synthetic(self, folder: Path, num_samples: int) -> FederatedData:
        return sources.synthetic(folder, num_samples, (3, 32, 32))

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures  # matplotlib: not in the workers

        predicted = self.predict(model, data)
        pictures.predictions(folder, data, predicted)
        pictures.confusion(folder, data, predicted)
