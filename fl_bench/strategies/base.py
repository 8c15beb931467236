"""The client half of a strategy. The base class is plain local training, as FedAvg wants it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class Turn:
    """One client's turn in one round, as its algorithm sees it."""

    client: int
    round: int
    model: nn.Module  # being trained, in place
    parameters: Tensor  # the shared tensors of `model`, as one flat view [P]
    start: Tensor  # what the server sent, flat [P]
    split: Callable[[Tensor], dict[str, Tensor]]  # a flat vector [P] as views by tensor name
    config: Mapping[str, Any]  # what the strategy's server half sent along
    reply: dict[str, float] = field(default_factory=dict)  # numbers for the server half, beside the task's metrics


class LocalAlgorithm:
    """Local training by the task's own optimiser; a subclass overrides the moments where it differs."""

    def begin(self, turn: Turn) -> None:
        """Before the first step: the model is the server's."""

    def correct(self, turn: Turn) -> None:
        """After each backward pass: the gradients may be changed before the optimiser takes its step."""

    def finish(self, turn: Turn) -> None:
        """After the last step: `turn.parameters` is what the client will send, and may be changed."""
