"""Local differential privacy: each client noises what it sends, and the server need not be trusted (Kasiviswanathan et
al. 2011, "What Can We Learn Privately?", arXiv:0803.0924; for updates Geyer et al. 2017, arXiv:1712.07557, algorithm 1,
where the server does it).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_bench.privacy.base import Noise, Vector
from fl_bench.strategies.accountant import epsilon


@dataclass
class LocalNoise(Noise):
    """The update u [N], of the model and of what travels beside it, becomes u * min(1, C / |u|) + N(0, (2 C z)^2).

    Neighbours are any two data of a client: what it sends then changes by 2 C at most. Who takes part is known, and
    so a round tells as much as if all did.
    """

    level = "local"

    def sent(self, client: int, round: int, received: Vector, trained: Vector, told: Mapping[str, Any]) -> Vector:
        update = np.subtract(trained, received, dtype=np.float64)
        update *= self.clip_norm / max(float(np.linalg.norm(update)), self.clip_norm)
        noise = self.generator("privacy", round, client, told).standard_normal(len(update))
        sent: Vector = (received + update + 2 * self.clip_norm * self.noise_multiplier * noise).astype(np.float32)
        return sent

    def epsilon(self, turns: int, rows: int, batch_size: int, steps: int) -> float:
        return epsilon("all", 1, 1, self.noise_multiplier, turns, self.delta)
