"""Differential privacy for clients: McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models",
arXiv:1710.06963; with a norm that follows the updates, Andrew et al. 2021, "Differentially Private Learning with
Adaptive Clipping", arXiv:1905.03871, algorithm 1.

The updates are shortened to the norm C, and w moves by (their sum + noise) / m, where m is how many clients a round
has, or has on average: who is absent counts as zero. Every client counts once, whatever its examples: noise of z C / m
would be too little for a client that weighs more than 1 / m. `accountant.py` says what that tells.

Flower's wrappers weigh by examples and divide by who has answered, but have noise for neither; they make no model where
a client has failed; and in the adaptive ones the noise is that of the next round's norm, and the norm runs away.
"""

import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM, KEY_NORM_BIT

from fl_bench.strategies.accountant import Privacy
from fl_bench.strategies.server import SECRET_NOISE
from fl_bench.strategies.updates import EachUpdate, Floats, Model, Updates


class FixedClipping(EachUpdate):
    """`at_server`: whether updates are clipped here; otherwise the clients do, and their sum is enough.

    On real sites noise comes from the operating system; in a simulation it follows from the seed, and is no secret.
    """

    of_nothing = True
    columns = ("clipping_norm", "epsilon")

    def __init__(self, clipping_norm: float, at_server: bool, privacy: Privacy, **options: Any) -> None:
        if not 0 < clipping_norm < float("inf"):
            raise ValueError(f"clipping_norm={clipping_norm}: must be a positive number")
        super().__init__(**options)
        self.secret = False  # whether noise must not follow from the seed
        self.norm, self.at_server, self.privacy = clipping_norm, at_server, privacy

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.round = server_round
        self.secret = bool(config.get(SECRET_NOISE))
        if not self.at_server:
            config[KEY_CLIPPING_NORM] = self.norm
        return super().configure_train(server_round, arrays, config, grid)

    def combine(self, updates: Updates, metrics: MetricRecord) -> Model:
        lengths = np.sqrt(updates.squares)
        if self.at_server:
            scales, answered = np.minimum(1, self.norm / np.maximum(lengths, 1e-12)), len(updates)
            clipped = (lengths > self.norm).astype(np.float64)
        else:  # of each one client, or of all the mean of so many
            scales = updates.metric(self.weighted_by_key)
            clipped, answered = updates.metric(KEY_NORM_BIT) * scales, int(scales.sum())
        deviation = self.noise() * self.privacy.change * self.norm
        clients = self.privacy.clients_per_round

        def noisy(rows: Floats) -> Floats:
            total = scales @ rows + self.normal(deviation, rows.shape[1])
            return np.asarray(total / clients)

        model = updates.applied(noisy)
        metrics["clipping_norm"] = self.norm
        metrics["epsilon"] = self.privacy.epsilon(self.round)
        self.follow(float(clipped.sum()), answered)
        return model

    def normal(self, deviation: float, size: int | None = None) -> Any:
        """So many numbers, or one."""
        source = np.random.default_rng(secrets.randbits(256)) if self.secret else np.random
        return source.normal(0, deviation, size)

    def noise(self) -> float:
        """The noise multiplier of the sum of the updates."""
        return self.privacy.noise_multiplier

    def follow(self, clipped: float, answered: int) -> None:
        """After a round: how many of those who have answered were clipped."""


class AdaptiveClipping(FixedClipping):
    """C times exp(-`norm_lr` (b - `quantile`)), where b is the share of updates that C has not shortened.

    b is told with noise too, of deviation `clipped_count_std`, and both together keep to the noise multiplier z: that
    of the updates is larger. Who is absent counts as half a client that was not shortened.
    """

    def __init__(
        self, clipping_norm: float, quantile: float, norm_lr: float, clipped_count_std: float | None, **options: Any
    ) -> None:
        if not 0 < quantile < 1:
            raise ValueError(f"quantile={quantile}: must be between 0 and 1")
        if not 0 < norm_lr < float("inf"):
            raise ValueError(f"norm_lr={norm_lr}: must be a positive number")
        super().__init__(clipping_norm, **options)
        self.quantile, self.norm_lr = quantile, norm_lr
        z, change, clients = self.privacy.noise_multiplier, self.privacy.change, self.privacy.clients_per_round
        # A client changes the count, from which a half is taken for each, by a half, or where it is replaced by one.
        count = clipped_count_std if clipped_count_std is not None else max(clients / 20, change * z)
        if not change * z / 2 < count or count < 0:
            raise ValueError(f"clipped_count_std={clipped_count_std}: must be more than {change * z / 2:.4g}, or null")
        self.count_std = count if z else 0.0
        self.raised = (z**-2 - (2 * count / change) ** -2) ** -0.5 if z else 0.0

    def noise(self) -> float:
        return self.raised

    def follow(self, clipped: float, answered: int) -> None:
        clients = self.privacy.clients_per_round
        halves = answered / 2 - clipped + self.normal(self.count_std)
        self.norm *= float(np.exp(-self.norm_lr * (0.5 + halves / clients - self.quantile)))
