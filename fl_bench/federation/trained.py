"""What a client reports after training, on whichever worker it was."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl_bench.federation.update import Diverged
from fl_bench.metrics import Mean
from fl_bench.storage.states import State


@dataclass
class Trained:
    """What a client reports after training."""

    payload: NDArray[np.float32]  # the model [P], then each of the algorithm's extras [P]; until the next turn begins
    num_examples: int
    metrics: dict[str, Mean]
    reply: dict[str, float]
    steps: int
    state: State  # to be kept by the client
    beside: Mapping[str, NDArray] = field(default_factory=dict)  # what it sends beside the payload

    @property
    def loss(self) -> float:
        """Of its training; not a number where it has none."""
        return self.metrics["loss"].value if "loss" in self.metrics else float("nan")

    def checked(self, measured: bool = True) -> "Trained":
        """This; raises Diverged where the loss or another number for the server is not finite, or there is none."""
        if measured and not self.metrics:
            raise Diverged("none of its batches has an example; raise local.batch_size")
        told = {"training loss": self.loss} if self.metrics else {}
        for name, value in {**told, **self.reply}.items():
            if not np.isfinite(value):
                raise Diverged(f"its {name} is {value}")
        return self
