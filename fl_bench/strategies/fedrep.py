"""FedRep: Collins et al. 2021, "Exploiting Shared Representations for Personalized FL", arXiv:2102.07078, algorithm 1.

As in FedPer the last layers stay with the client, but it trains them first, on the representation that the server
sent, and only then the representation, for the head it has found.
"""

from torch import nn

from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.layers import last_layers
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Metrics


class Alternating(LocalAlgorithm):
    """`head_passes`: how long the head is trained, in turns of `local.epochs` or `local.steps`; the base takes one."""

    protected_by = ("example", "local")

    def __init__(self, personal_layers: int | list[str], head_passes: int) -> None:
        if head_passes < 0:
            raise ValueError(f"head_passes={head_passes}: must be 0 or more")
        self.personal_layers, self.head_passes = personal_layers, head_passes
        self.passes = head_passes + 1

    def private(self, model: nn.Module) -> set[str]:
        return last_layers(model, self.personal_layers)

    def begin(self, turn: Turn) -> None:
        head = self.private(turn.model)
        named = turn.model.named_parameters()
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}  # is it of the head?
        for name, parameter in named:
            parts[name in head].append(parameter)
        turn.work.parts = parts

    def train(self, turn: Turn) -> list[Metrics]:
        head_optimizer = turn.new_optimizer()
        head_batches = turn.batches(self.head_passes * turn.amount, "head")
        metrics = [turn.step(batch, lambda: _freeze(turn, head=False), head_optimizer) for batch in head_batches]
        return metrics + [turn.step(batch, lambda: _freeze(turn, head=True)) for batch in turn.batches()]


def _freeze(turn: Turn, head: bool) -> None:
    for parameter in turn.work.parts[head]:
        parameter.grad = None  # an optimiser passes over it
