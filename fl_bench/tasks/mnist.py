"""Handwritten digits by logistic regression (784 -> 10): the classic first experiment of federated learning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fl_bench.build import nearest
from fl_bench.data import sources
from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.results import pictures
from fl_bench.tasks.base import ImageClassifier

FAMILY = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST")


class Mnist(ImageClassifier):
    def model(self, data: FederatedData) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, len(data.classes)))

    def load_embedded(self, data: Mapping[str, Any], folder: Path) -> FederatedData:
        return sources.digits()

    def load_full(self, data: Mapping[str, Any], folder: Path) -> FederatedData:
        name = data["dataset"] or "MNIST"
        if name not in FAMILY:
            raise ConfigError(f"data.dataset={name}: {nearest(str(name), FAMILY)}")
        return sources.torchvision_images(name, data["root"])

    def load_synthetic(self, data: Mapping[str, Any], folder: Path) -> FederatedData:
        return sources.synthetic(folder, data["num_samples"], (1, 28, 28))

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        pictures.predictions(folder, data, self.predict(model, data))
