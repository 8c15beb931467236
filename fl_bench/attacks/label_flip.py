"""Label flip: Fang et al. 2020, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning",
arXiv:1911.11815: of L classes, class l is called L - 1 - l.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl_bench.attacks.base import Malicious, need_classes

if TYPE_CHECKING:
    from fl_bench.data.arrays import FederatedData
    from fl_bench.strategies.turn import Turn
    from fl_bench.tasks.base import Batch, Task


@dataclass
class LabelFlip(Malicious):
    """The client trains on wrong labels; all else it does as it should."""

    def suit(self, task: "Task", data: "FederatedData") -> None:
        need_classes(task, data)

    def begin(self, turn: "Turn") -> None:
        honest, last = turn.stream, self.num_classes - 1

        def flipped(purpose: str) -> "Iterator[Batch]":
            return ({**batch, "y": last - batch["y"]} for batch in honest(purpose))

        turn.stream = flipped
