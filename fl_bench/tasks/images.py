"""Images of any number of channels, size and number of classes, by any model of the group `model`."""

from pathlib import Path

from torch import nn

from fl_bench.build import nearest
from fl_bench.data import sources
from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.tasks.base import ByName, ImageClassifier


class Images(ByName, ImageClassifier):
    """Pixels become numbers from -1 to 1."""

    mean = 0.5
    std = 0.5
    channels_last = True

    def load_embedded(self, folder: Path) -> FederatedData:
        """Real digits on real photos, 4,000 to train and 1,000 to test, [3, 32, 32]."""
        return sources.digits_on_photos(copies=1)

    def load_torchvision(self, folder: Path, root: str | None, dataset: str, split: str | None) -> FederatedData:
        """One of `sources.SETS`."""
        if dataset not in sources.SETS:
            raise ConfigError(f"data.dataset={dataset}: {nearest(dataset, sources.SETS)}")
        if split is not None and (dataset != "EMNIST" or split not in sources.EMNIST):
            raise ConfigError(f"data.split={split}: must be null, or with EMNIST one of {', '.join(sources.EMNIST)}")
        return sources.torchvision_images(dataset, root, split=split or "balanced", option="torchvision")

    def load_synthetic(self, folder: Path, num_samples: int) -> FederatedData:
        """Generated images [3, 32, 32]."""
        return sources.synthetic(folder, num_samples, (3, 32, 32))

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures  # matplotlib: not in the workers

        predicted = self.predict(model, data)
        pictures.predictions(folder, data, predicted)
        pictures.confusion(folder, data, predicted)
