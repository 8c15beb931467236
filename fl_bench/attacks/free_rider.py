"""Free rider: Fraboni et al. 2021, "Free-rider Attacks on Model Aggregation in Federated Learning", arXiv:2006.11901.

A client sends what it has received (their plain free rider), or that and noise (their disguised one, whose noise
shrinks over the rounds; here it does not).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl_bench.attacks.alone import Gaussian

if TYPE_CHECKING:
    from fl_bench.strategies.turn import Turn
    from fl_bench.tasks.base import Batch, Metrics


@dataclass
class FreeRider(Gaussian):
    """What it sends is noise, or with `std` 0 nothing. A step is a look at a batch: the loss that it tells is true.

    It counts these as steps that it has taken, since some strategies divide by their number.
    """

    def begin(self, turn: "Turn") -> None:
        import torch

        def look(batch: "Batch", *_: object, **__: object) -> "Metrics":
            turn.steps += 1
            if not len(next(iter(batch.values()))):  # as with privacy=example: there is no loss to tell
                return {}
            with torch.no_grad():
                return turn.task.objective(turn.model, batch)[1]

        def flat(batch: "Batch") -> torch.Tensor:
            turn.steps += 1
            return torch.zeros_like(turn.parameters)

        turn.step, turn.gradient = look, flat  # type: ignore[method-assign]
