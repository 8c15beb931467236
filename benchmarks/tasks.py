"""The works as tasks of fl-bench: the models and files that all contenders use."""

from pathlib import Path

import numpy as np
from torch import nn
from works import MODELS

from fl_bench.data.arrays import FederatedData
from fl_bench.tasks.base import ImageClassifier


class Files(ImageClassifier):
    name: str
    mean = 0.5
    std = 0.5

    def model(self, data: FederatedData) -> nn.Module:
        return MODELS[self.name]()

    def load_files(self, folder: Path, root: str) -> FederatedData:
        def columns(split: str) -> dict[str, np.ndarray]:
            images = folder / f"{split}.x..npy"
            images.symlink_to(Path(root) / f"{split}.x.npy")
            return {"x": np.load(images, mmap_mode="r"), "y": np.load(Path(root) / f"{split}.y.npy")}

        return FederatedData(columns("train"), columns("test"), tuple("0123456789"))


class LeNet(Files):
    name = "cifar"
    channels_last = True


class Linear(Files):
    name = "linear"


class Wide(Files):
    name = "wide"
