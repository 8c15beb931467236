"""What is particular about each client's samples: its camera, or what it calls the classes.

Each function that a `conf/shift/*.yaml` names takes the training columns, the partition, the classes and the seed, and
returns the columns as the clients have them: their training and their held-out rows are changed once, before anybody
trains, and never the central test set. What is drawn comes from (seed, row, client).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.config.rules import require
from fl_bench.data.arrays import Columns, Ints
from fl_bench.data.partition import Partition
from fl_bench.errors import ConfigError

Images = NDArray[np.uint8]  # [B, channels, height, width]
Classes = Sequence[str]
Change = Callable[[Any, Ints, int], Any]  # of a client's values, and their rows and the client
CHUNK = 1024  # rows at a time


def none(columns: Columns, partition: Partition, classes: Classes, seed: int) -> Columns:
    """Nothing: the samples are as they come."""
    return columns


def noise(columns: Columns, partition: Partition, classes: Classes, seed: int, strength: float) -> Columns:
    """Gaussian noise on each pixel; of client k of N its standard deviation is 255 x `strength` x k / (N - 1).

    The noise-based feature imbalance of NIID-Bench (Li et al. 2022, arXiv:2102.02079, section 4), as in its code.
    """
    require("shift.strength", strength, 0 <= strength < math.inf, "must be 0 or more")

    def change(images: Images, rows: Ints, client: int) -> Any:
        draws = (rng.generator(seed, "shift", row, client).standard_normal(images.shape[1:]) for row in rows.tolist())
        return images + 255 * strength * _place(client, partition) * np.stack(list(draws))

    return _with_images(columns, partition, change)


def rotation(columns: Columns, partition: Partition, classes: Classes, seed: int, angles: list[float]) -> Columns:
    """Client k's images turned counter-clockwise by `angles[k % len(angles)]` degrees; what comes in is black.

    As the rotated MNIST of IFCA (Ghosh et al. 2020, arXiv:2006.04088).
    """
    require(
        "shift.angles", angles, bool(angles) and all(map(math.isfinite, angles)), "must be finite numbers, one or more"
    )
    import torch
    from torchvision.transforms.v2.functional import InterpolationMode, rotate  # a second and a half to import

    def change(images: Images, rows: Ints, client: int) -> Any:
        angle = angles[client % len(angles)]
        return rotate(torch.from_numpy(images), angle, InterpolationMode.BILINEAR).numpy()

    return _with_images(columns, partition, change)


def colour(columns: Columns, partition: Partition, classes: Classes, seed: int, strength: float) -> Columns:
    """Each channel of a client times a gain in 1 +- `strength`, plus an offset in 255 x (0 +- `strength` / 2)."""
    require("shift.strength", strength, 0 <= strength <= 1, "must be from 0 to 1")

    def change(images: Images, rows: Ints, client: int) -> Any:
        draws = rng.generator(seed, "shift", client=client).uniform(-1, 1, (2, images.shape[1], 1, 1))
        gain, offset = 1 + strength * draws[0], 255 * strength / 2 * draws[1]
        return images * gain + offset

    return _with_images(columns, partition, change)


def blur(columns: Columns, partition: Partition, classes: Classes, seed: int, sigma: float) -> Columns:
    """Images through a Gaussian of `sigma` x k / (N - 1) pixels, k being the client of N."""
    require("shift.sigma", sigma, 0 <= sigma < math.inf, "must be 0 or more")
    from scipy.ndimage import gaussian_filter

    def change(images: Images, rows: Ints, client: int) -> Any:
        return gaussian_filter(images.astype(np.float32), sigma * _place(client, partition), axes=(2, 3))

    return _with_images(columns, partition, change)


def labels(columns: Columns, partition: Partition, classes: Classes, seed: int, groups: int) -> Columns:
    """Client k calls a class what in a circle of all classes, drawn from the seed, comes k % `groups` places later.

    Any two groups disagree about every class. Group 0 has the true labels. As the swapped labels of clustered
    federated learning (Sattler et al. 2020, arXiv:1910.01991).
    """
    count = len(classes)
    require("shift.groups", groups, 1 <= groups <= count, f"must be from 1 to {count}, the number of classes")
    circle = rng.generator(seed, "shift").permutation(count)
    place = np.argsort(circle)

    def change(true: Ints, rows: Ints, client: int) -> Ints:
        return circle[(place[true] + client % groups) % count]

    return _with_labels(columns, partition, change)


def label_noise(columns: Columns, partition: Partition, classes: Classes, seed: int, strength: float) -> Columns:
    """Each training label of client k of N is wrong with probability `strength` x k / (N - 1): any other class, equally
    likely. Held-out labels stay true.
    """
    require("shift.strength", strength, 0 <= strength <= 1, "must be from 0 to 1")
    require("shift.strength", strength, len(classes) > 1, "the data has one class only, and no other to take")

    def change(true: Ints, rows: Ints, client: int) -> Ints:
        draws = np.array([rng.generator(seed, "shift", row, client).random(2) for row in rows.tolist()])
        other = (true + 1 + (draws[:, 1] * (len(classes) - 1)).astype(np.int64)) % len(classes)
        return np.where(draws[:, 0] < strength * _place(client, partition), other, true)

    return _with_labels(columns, partition, change, heldout=False)


def _place(client: int, partition: Partition) -> float:
    """From 0 for the first client to 1 for the last."""
    return client / max(1, len(partition.ends) - 1)


def _with_images(columns: Columns, partition: Partition, change: Change) -> Columns:
    """The columns with each client's images changed, rounded to what a pixel can be."""

    def pixels(images: Images, rows: Ints, client: int) -> Images:
        changed: Images = np.rint(change(images, rows, client)).clip(0, 255).astype(np.uint8)
        return changed

    images = columns.get("x")
    if not (isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4):
        raise _unfit("images, a column x of uint8 [N, channels, height, width]", columns)
    mine = isinstance(images, np.memmap) and images.flags.writeable  # made for this run, and maybe larger than memory
    return {**columns, "x": _each(images if mine else np.array(images), partition, pixels)}


def _with_labels(columns: Columns, partition: Partition, change: Change, heldout: bool = True) -> Columns:
    """The columns with each client's labels changed."""
    if columns["y"].dtype.kind != "i":
        raise _unfit("a class for each sample, a column y of integers", columns)
    return {**columns, "y": _each(np.array(columns["y"]), partition, change, heldout)}


def _each(column: NDArray, partition: Partition, change: Change, heldout: bool = True) -> NDArray:
    """The column after `change` of each client's rows in it, or only of those that it trains on."""
    ends = partition.starts[1:] if heldout else partition.ends
    for client, end in enumerate(ends):
        for first in range(partition.starts[client], end, CHUNK):
            rows = partition.rows[first : min(first + CHUNK, end)]
            column[rows] = change(column[rows], rows, client)
    return column


def _unfit(wish: str, columns: Columns) -> ConfigError:
    return ConfigError(f"shift: this one needs {wish}, and the data has {', '.join(sorted(columns))}; use shift=none")
