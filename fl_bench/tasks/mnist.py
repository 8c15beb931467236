"""Handwritten digits, by default by logistic regression (784 -> 10): the classic first federated experiment."""

from pathlib import Path

from torch import nn

from fl_bench.build import nearest
from fl_bench.data import sources
from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.tasks.base import ByName, ImageClassifier

FAMILY = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST")


class Mnist(ByName, ImageClassifier):
    def load_embedded(self, folder: Path) -> FederatedData:
        return sources.digits()

    def load_full(self, folder: Path, root: str | None, dataset: str | None) -> FederatedData:
        name = dataset or "MNIST"
        if name not in FAMILY:
            raise ConfigError(f"data.dataset={name}: {nearest(name, FAMILY)}")
        return sources.torchvision_images(name, root, (1, 28, 28))

    def load_synthetic(self, folder: Path, num_samples: int) -> FederatedData:
        return sources.synthetic(folder, num_samples, (1, 28, 28))

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures  # matplotlib: not in the workers

        pictures.predictions(folder, data, self.predict(model, data))
