"""FoolsGold: Fung et al. 2020, "The Limitations of Federated Learning in Sybil Settings", RAID, algorithm 1.

Malicious clients that pull the same way resemble each other more than honest ones do, whose data differ.
"""

from dataclasses import dataclass, field

import numpy as np

from fl_bench.robust.base import Combination, Floats, Told
from fl_bench.robust.before import Mixing


@dataclass
class FoolsGold(Combination):
    """A weighted mean; who resembles another client weighs less, by the cosines of the sums of all updates so far.

    In the paper only features that matter for the output are compared; here all numbers are. It adds up weight *
    update; here that is divided by the sum of the weights, so that equal weights make a mean. It keeps a vector [N] of
    each client that has answered.
    """

    confidence: float  # the paper's kappa
    history: dict[int, Floats] = field(default_factory=dict, init=False)  # by client the sum of its updates [N]

    keeps = True

    def __post_init__(self) -> None:
        if not self.confidence > 0:
            raise ValueError(f"confidence={self.confidence}: must be a positive number")
        if type(self.before) is not Mixing:
            raise ValueError("it must know whose update is whose, which others before it mix; use robust/before=none")

    def combine(self, updates: Floats, told: Told) -> Floats | None:
        for client, update in zip(told.clients, updates, strict=True):
            self.history[client] = self.history.get(client, 0) + update
        weights = self.weights(np.stack([self.history[client] for client in told.clients]))
        return weights @ updates / weights.sum() if weights.any() else None

    def weights(self, sums: Floats) -> Floats:
        """Of clients whose updates so far add up to these [n, N]: from 0 to 1 each [n]."""
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        directions = sums / np.where(lengths > 0, lengths, 1)
        alike = np.maximum(directions @ directions.T, 0)
        np.fill_diagonal(alike, 0)
        most = alike.max(axis=1, initial=0)
        alike *= np.minimum(1, most[:, None] / np.where(most > 0, most, 1))  # who resembles less than the other does
        weights = np.clip(1 - alike.max(axis=1, initial=0), 0, 1)
        capped = np.minimum(weights / (weights.max() or 1), 0.99)
        with np.errstate(divide="ignore"):
            logit: Floats = self.confidence * (np.log(capped / (1 - capped)) + 0.5)
        return np.clip(logit, 0, 1)
