"""What protection is made of; by itself there is none."""

import secrets
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.config.rules import require
from fl_bench.data.arrays import batches
from fl_bench.strategies.server import SECRET_NOISE

if TYPE_CHECKING:  # torch takes a second to import
    from torch import nn

    from fl_bench.strategies.turn import Turn
    from fl_bench.tasks.base import Batch, Task

Vector = NDArray[np.float32]


@dataclass
class Protection:
    """What a client does so that what it sends tells little of its data, around what the strategy has it do.

    Must override:
        Nothing; but a class of one's own derives from `Noise`.

    May override:
        `suit`, before a run. For its steps `batches` and `begin`, before a client's turn; for its update `sent`, after
        it. And the class attribute.
    """

    seed: int

    level = "none"  # what a client half has in `protected_by` that this covers

    def suit(self, task: "Task", model: "nn.Module", batch: "Batch") -> None:
        """Before a run: raise ConfigError where this cannot work; `batch` are a few training examples."""

    def batches(self, rows: NDArray, size: int, draws: np.random.Generator) -> Iterator[NDArray]:
        """A turn's batches of about `size` of these rows, without end."""
        return batches(rows, size, draws)

    def begin(self, turn: "Turn", rows: int) -> None:
        """Before a client's turn on so many rows: what `turn.step` and `turn.gradient` do may be made another."""

    def sent(self, client: int, round: int, received: Vector, trained: Vector, told: Mapping[str, Any]) -> Vector:
        """What a client sends [N], from what it has received and what it has made of it; `told` is `turn.config`."""
        return trained

    def generator(self, purpose: str, round: int, client: int, told: Mapping[str, Any]) -> np.random.Generator:
        """What a client draws from: by the seed, which the server knows, and on real sites what nobody knows."""
        return rng.generator(self.seed, purpose, round, client)


@dataclass
class Noise(Protection):
    """Normal noise, and what it has to be for an epsilon.

    Must override:
        `level` and `epsilon`.

    Examples:
        Updates with Laplace noise, whose delta is 0 (Dwork et al. 2006, "Calibrating Noise to Sensitivity"):

        >>> class Laplace(Noise):
        ...     level = "local"
        ...
        ...     def sent(self, client, round, received, trained, told):
        ...         update = trained - received
        ...         update *= self.clip_norm / max(np.abs(update).sum(), self.clip_norm)
        ...         scale = 2 * self.clip_norm * self.noise_multiplier
        ...         noise = self.generator("privacy", round, client, told).laplace(0, scale, len(update))
        ...         return (received + update + noise).astype(np.float32)
        ...
        ...     def epsilon(self, turns, rows, batch_size, steps):
        ...         return turns / self.noise_multiplier
        >>> Laplace(0, clip_norm=1.0, noise_multiplier=0.5, delta=1e-5).epsilon(3, 100, 32, 4)
        6.0
    """

    clip_norm: float  # the longest that a gradient or an update may be
    noise_multiplier: float  # the noise's standard deviation by the most that a row, or a client, can change
    delta: float  # the chance that epsilon does not hold

    def __post_init__(self) -> None:
        require("privacy.clip_norm", self.clip_norm, 0 < self.clip_norm < np.inf, "must be a positive number")
        z = self.noise_multiplier
        require("privacy.noise_multiplier", z, 0 <= z < np.inf, "must be a number from 0")
        require("privacy.delta", self.delta, 0 < self.delta < 1, "must be above 0 and below 1")

    @abstractmethod
    def epsilon(self, turns: int, rows: int, batch_size: int, steps: int) -> float:
        """What so many turns of a client with so many rows have told; each takes `steps` steps."""

    def generator(self, purpose: str, round: int, client: int, told: Mapping[str, Any]) -> np.random.Generator:
        if told.get(SECRET_NOISE):
            return np.random.default_rng(secrets.randbits(256))
        return super().generator(purpose, round, client, told)
