"""Images of colours, by any model of the group `model`: what tasks with such images share."""

from pathlib import Path

from torch import nn

from fl_bench.data import sources
from fl_bench.data.arrays import FederatedData
from fl_bench.tasks.base import ByName, ImageClassifier


class ColourImages(ByName, ImageClassifier):
    """Images of colours, pixels from -1 to 1; by default real digits on real photos."""

    mean = 0.5
    std = 0.5
    channels_last = True

    def load_embedded(self, folder: Path) -> FederatedData:
        """Real digits on real photos, 4,000 to train and 1,000 to test, [3, 32, 32]."""
        return sources.digits_on_photos(copies=1)

    def load_synthetic(self, folder: Path, num_samples: int) -> FederatedData:
        """Generated images [3, 32, 32]."""
        return sources.synthetic(folder, num_samples, (3, 32, 32))

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures  # matplotlib: not in the workers

        predicted = self.predict(model, data)
        pictures.predictions(folder, data, predicted)
        pictures.confusion(folder, data, predicted)
