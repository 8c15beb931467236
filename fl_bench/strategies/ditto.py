"""Ditto: Li et al. 2021, "Fair and Robust Federated Learning Through Personalization", arXiv:2012.04221, algorithm 1.

Beside its part in FedAvg, each client trains a model of its own that is pulled to the global one, by
lambda/2 |v - w_global|^2.
"""

from fl_bench.build import not_negative
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Metrics

PERSONAL = "personal"


class Ditto(LocalAlgorithm):
    """`lam`: lambda; 0 is training alone, and the larger it is, the nearer to the global model."""

    passes = 2
    protected_by = ("example", "local")

    def __init__(self, lam: float) -> None:
        not_negative(**{"lambda": lam})
        self.lam = lam

    def train(self, turn: Turn) -> list[Metrics]:
        metrics = super().train(turn)
        federated = [(tensor, tensor.clone()) for tensor in (turn.parameters, *turn.private.values())]
        self.personalize(turn)
        optimizer = turn.new_optimizer()
        for batch in turn.batches(purpose=PERSONAL):
            turn.step(batch, lambda: self._pull(turn), optimizer)
        turn.state[PERSONAL] = turn.parameters.clone()
        for tensor, value in federated:
            tensor.copy_(value)
        return metrics

    def personalize(self, turn: Turn) -> None:
        turn.parameters.copy_(turn.state.get(PERSONAL, turn.start))

    def _pull(self, turn: Turn) -> None:
        turn.grad += self.lam * (turn.parameters - turn.start)
