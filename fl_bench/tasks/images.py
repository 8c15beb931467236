"""Images of any number of channels, size and number of classes, by any model of the group `model`."""

from pathlib import Path
from typing import Literal

from fl_bench.build import nearest
from fl_bench.data import hugging, sources
from fl_bench.data.arrays import FederatedData
from fl_bench.data.facts import Facts
from fl_bench.data.labelled import image_folders
from fl_bench.data.leaf import leaf_images
from fl_bench.errors import ConfigError
from fl_bench.tasks.colours import ColourImages


class Images(hugging.FromDataSets, ColourImages):
    reads = ("image", "size")

    def load_torchvision(self, folder: Path, root: str | None, dataset: str, split: str | None) -> FederatedData:
        """One of `sources.SETS`."""
        if dataset not in sources.SETS:
            raise ConfigError(f"data.dataset={dataset}: {nearest(dataset, sources.SETS)}")
        if split is not None and (dataset != "EMNIST" or split not in sources.EMNIST):
            raise ConfigError(f"data.split={split}: must be null, or with EMNIST one of {', '.join(sources.EMNIST)}")
        return sources.torchvision_images(dataset, root, split=split or "balanced", option="torchvision")

    def load_folder(
        self, folder: Path, root: str, client: Literal["folder"] | None, size: int | None, facts: str | None = None
    ) -> FederatedData:
        """Images in a folder for each class."""
        return image_folders(folder, root, client == "folder", size, Facts.read(facts) if facts else None)

    def load_leaf(self, folder: Path, root: str) -> FederatedData:
        """Images of LEAF's users."""
        return leaf_images(folder, root)

    def of_splits(self, folder: Path, splits: hugging.Splits, wanted: hugging.Wanted) -> FederatedData:
        return hugging.images_of(splits, folder, wanted.image, wanted.label, wanted.client, wanted.size)
