"""What comes of a client's turn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_bench.federation.update import Diverged
from fl_bench.metrics import Mean
from fl_bench.storage.states import State

Vector = NDArray[np.float32]


@dataclass
class Trained:
    """What a client reports after training."""

    payload: Vector  # the model [P], then each of the algorithm's extras [P]; until the next turn begins
    num_examples: int
    metrics: dict[str, Mean]
    reply: dict[str, float]
    steps: int
    state: State  # to be kept by the client

    def checked(self) -> "Trained":
        """This, or Diverged is raised where the loss or another number for the server is not finite."""
        for name, value in {"training loss": self.metrics["loss"].value, **self.reply}.items():
            if not np.isfinite(value):
                raise Diverged(f"its {name} is {value}")
        return self
