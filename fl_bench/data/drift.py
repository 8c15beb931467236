"""What changes about the clients' samples over the rounds: names of classes, images, or which classes come up.

A client's training and held-out rows drift, also those of clients who never train; what the server keeps, its test set
and its validation rows, never does. How a row looks follows from (seed, row, its client, round), whoever trains on it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.config.rules import require
from fl_bench.data.arrays import FederatedData, Ints
from fl_bench.data.partition import Partition
from fl_bench.errors import ConfigError

Batch = Mapping[str, torch.Tensor]
NEVER = 2**62  # later than any round


@dataclass
class Drift:
    """By itself nothing changes. A subclass overrides one of the two methods; `conf/data_drift/*.yaml` name them.

    Examples:
        >>> rows = np.array([3, 1])
        >>> Drift(0, None, None, None).rows(rows, round=1) is rows
        True
    """

    seed: int
    data: FederatedData
    partition: Partition
    unseen: Partition  # clients who never train; in tables they come after the others

    def rows(self, rows: Ints, round: int) -> Ints:
        """Those of a client's rows that it has in this round."""
        return rows

    def __call__(self, batch: Batch, rows: Ints, round: int) -> Batch:
        """The batch of these rows [B] as it looks in this round; round 0 is before the first."""
        return batch


@dataclass
class Timed(Drift):
    """A change that begins for some clients in some round, suddenly or little by little, once or again and again.

    Sudden, incremental, gradual and recurring drift as in Gama et al. 2014 (doi:10.1145/2523813), section 2; clients
    that drift at different times as in Jothimurugesan et al. 2023 (FedDrift, arXiv:2206.00799).
    """

    at: int  # the first round of the change
    over: int  # rounds until it is complete; 1: suddenly
    back: int | None  # rounds after which it turns back, and after as many comes again; None: it stays
    stagger: int  # a client begins up to so many rounds later
    share: float  # of the clients, those who change

    def __post_init__(self) -> None:
        for name, low in (("at", 1), ("over", 1), ("stagger", 0)):
            require(f"data_drift.{name}", getattr(self, name), getattr(self, name) >= low, f"must be {low} or more")
        wish = f"must be at least data_drift.over={self.over}, or null"
        require("data_drift.back", self.back, self.back is None or self.back >= self.over, wish)
        require("data_drift.share", self.share, 0 <= self.share <= 1, "must be from 0 to 1")

    def progress(self, rows: Ints, round: int) -> NDArray[np.float64]:
        """How much of the change each of these rows has seen [B]: 0 is nothing, 1 all of it."""
        since = round - self._starts[self._owners[rows]]
        turns, rounds = np.divmod(since, self.back or NEVER)
        grown = np.minimum((rounds + 1) / self.over, 1)
        return np.where(since < 0, 0, np.where(turns % 2, 1 - grown, grown))

    @cached_property
    def _owners(self) -> Ints:
        """The client of each training row [N]; -1 for nobody's."""
        owners = np.full(self.data.num_samples, -1)
        sizes = np.concatenate([np.diff(self.partition.starts), np.diff(self.unseen.starts)])
        owners[np.concatenate([self.partition.rows, self.unseen.rows])] = np.repeat(np.arange(len(sizes)), sizes)
        return owners

    @cached_property
    def _starts(self) -> Ints:
        """The round in which each client begins to change, and last NEVER, which is what index -1 finds."""
        count = len(self.partition.ends) + len(self.unseen.ends)
        draws = rng.generator(self.seed, "data drift")
        changing = draws.permutation(count)[: round(self.share * count)]
        starts = np.full(count + 1, NEVER)
        starts[changing] = self.at + draws.integers(self.stagger + 1, size=count)[changing]
        return starts


@dataclass
class Labels(Timed):
    """Each of these classes takes the name of the next one, the last that of the first: two swap. Concept drift.

    While it comes, a growing share of a client's rows has the new name: a row changes when `progress` passes a number
    drawn for it.
    """

    classes: list[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.data.classes)
        _require_classes(self.data)
        fits = len(set(self.classes)) == len(self.classes) >= 2 and all(0 <= label < count for label in self.classes)
        wish = f"must be two or more different classes from 0 to {count - 1}"
        require("data_drift.classes", self.classes, fits, wish)

    def __call__(self, batch: Batch, rows: Ints, round: int) -> Batch:
        if "y" not in batch:  # a task that does not learn classes trains as without
            return batch
        y, names = batch["y"], torch.arange(len(self.data.classes))
        names[self.classes] = torch.tensor(np.roll(self.classes, -1))
        changed = torch.from_numpy(self._draws[rows] < self.progress(rows, round))
        return {**batch, "y": torch.where(changed.to(y.device), names.to(y.device)[y], y)}

    @cached_property
    def _draws(self) -> NDArray[np.float64]:
        """For each training row a number from 0 to 1 [N]."""
        return rng.generator(self.seed, "data drift of rows").random(self.data.num_samples)


@dataclass
class Rotation(Timed):
    """Images turned counter-clockwise, up to `angle` degrees, each round by an equal part; what comes in is black.

    Incremental covariate drift, in the images of `shift=rotation`.
    """

    angle: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require("data_drift.angle", self.angle, math.isfinite(self.angle), "must be a finite number")
        images = self.data.train.get("x")
        if not (isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4):
            wish = "images, a column x of uint8 [N, channels, height, width]"
            has = ", ".join(sorted(self.data.train))
            raise ConfigError(f"data_drift: this one needs {wish}, and the data has {has}; use data_drift=none")

    def __call__(self, batch: Batch, rows: Ints, round: int) -> Batch:
        angles = self.angle * self.progress(rows, round)
        if not angles.any():
            return batch
        from torchvision.transforms.v2.functional import InterpolationMode, rotate  # a second and a half to import

        images = batch["x"].clone()
        for angle in np.unique(angles[angles != 0]).tolist():
            mine = torch.from_numpy(angles == angle).to(images.device)
            images[mine] = rotate(images[mine], angle, InterpolationMode.BILINEAR)
        return {**batch, "x": images}


@dataclass
class Classes(Drift):
    """Classes come one after the other, by their number: `first` of them, then `add` more every `every` rounds.

    Until its class comes, a row is not there. With `keep`, what has come stays. Federated class-incremental
    learning, as in Dong et al. 2022 (arXiv:2203.11473).
    """

    first: int
    add: int
    every: int
    keep: bool

    def __post_init__(self) -> None:
        count = len(self.data.classes)
        _require_classes(self.data)
        require("data_drift.first", self.first, 1 <= self.first <= count, f"must be from 1 to {count}, the classes")
        for name in ("add", "every"):
            require(f"data_drift.{name}", getattr(self, name), getattr(self, name) >= 1, "must be 1 or more")

    def present(self, round: int) -> range:
        """The numbers of the classes of this round."""
        last = -((self.first - len(self.data.classes)) // self.add)
        step = min(max(round - 1, 0) // self.every, last)
        end = self.first + self.add * step
        return range(0 if self.keep or not step else end - self.add, min(end, len(self.data.classes)))

    def rows(self, rows: Ints, round: int) -> Ints:
        present, labels = self.present(round), self.data.train["y"][rows]
        here: Ints = rows[(labels >= present.start) & (labels < present.stop)]
        return here


def _require_classes(data: FederatedData) -> None:
    if data.train["y"].dtype.kind != "i":
        raise ConfigError("data_drift: this one needs a class for each sample, and the data has numbers to predict")
