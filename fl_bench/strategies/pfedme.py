"""pFedMe: Dinh et al. 2020, "Personalized Federated Learning with Moreau Envelopes", arXiv:2006.08848, algorithm 1.

For each batch the client finds a personal model, theta, that minimises its loss plus lambda/2 |theta - w|^2, in a few
steps; then its copy of the global model, w, moves a little towards it: w - lr * lambda * (w - theta). The server takes
the mean of those, which is the paper's step with beta = 1.
"""

from fl_bench.build import not_negative, positive
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Batch, Metrics

PERSONAL = "personal"


class MoreauEnvelope(LocalAlgorithm):
    """`inner_steps`: the paper's K, by the task's optimiser; `rate`: lr * lambda, w's way to theta at each batch."""

    protected_by = ("local",)  # steps share a batch

    def __init__(self, lam: float, inner_steps: int, rate: float) -> None:
        not_negative(**{"lambda": lam})
        positive(inner_steps=inner_steps)
        if not 0 < rate <= 1:
            raise ValueError(f"rate={rate}: must be above 0 and at most 1")
        self.lam, self.inner_steps, self.rate = lam, inner_steps, rate
        self.passes = inner_steps

    def begin(self, turn: Turn) -> None:
        turn.work.local = turn.start.clone()  # w

    def training_step(self, turn: Turn, batch: Batch) -> Metrics:
        first = super().training_step(turn, batch)
        for _ in range(self.inner_steps - 1):
            super().training_step(turn, batch)
        turn.work.local.lerp_(turn.parameters, self.rate)
        return first

    def correct(self, turn: Turn) -> None:
        turn.grad += self.lam * (turn.parameters - turn.work.local)

    def finish(self, turn: Turn) -> None:
        turn.state[PERSONAL] = turn.parameters.clone()
        turn.parameters.copy_(turn.work.local)

    def personalize(self, turn: Turn) -> None:
        turn.parameters.copy_(turn.state.get(PERSONAL, turn.start))
