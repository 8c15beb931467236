"""Small colour images, by default by the CNN of PyTorch's 60-minute blitz."""

from pathlib import Path

from torch import nn

from fl_bench.data import sources
from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.tasks.base import ByName, ImageClassifier


class Cifar(ByName, ImageClassifier):
    mean = 0.5
    std = 0.5
    channels_last = True

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
