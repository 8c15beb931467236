"""Small colour images, by default by the CNN of PyTorch's 60-minute blitz."""

from pathlib import Path

from fl_bench.data import sources
from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.tasks.colours import ColourImages


class Cifar(ColourImages):
    def load_full(self, folder: Path, root: str | None, dataset: str | None) -> FederatedData:
        if dataset not in (None, "CIFAR10"):
            raise ConfigError(f"data.dataset={dataset}: task cifar knows CIFAR10 only")
        return sources.torchvision_images("CIFAR10", root, (3, 32, 32))
