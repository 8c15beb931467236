"""APFL: Deng et al. 2020, "Adaptive Personalized Federated Learning", arXiv:2003.13461, algorithm 1 and section 4.2.

Each client uses a mixture alpha * v + (1 - alpha) * w of a model of its own, v, and the federated one, w, which is
trained as by FedAvg. v is trained for the loss of the mixture, and so may alpha be.
"""

import torch

from fl_bench.strategies.base import LocalAlgorithm, need_one_loss
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Batch, Metrics, Task

PERSONAL, ALPHA = "personal", "alpha"


class Mixture(LocalAlgorithm):
    """`alpha`: where it begins; with `adaptive` it takes a gradient step at the first batch of each round."""

    passes = 2
    protected_by = ("local",)  # alpha follows from the loss, and the server half does not read it

    def __init__(self, alpha: float, adaptive: bool) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha}: must be from 0 to 1")
        self.alpha, self.adaptive = alpha, adaptive

    def suit(self, task: Task) -> None:
        need_one_loss(self, task)

    def begin(self, turn: Turn) -> None:
        turn.work.mine = turn.state.get(PERSONAL, turn.start).clone()
        turn.work.share = float(turn.state.get(ALPHA, self.alpha))
        turn.work.optimizer = turn.new_optimizer()
        turn.work.first = self.adaptive

    def training_step(self, turn: Turn, batch: Batch) -> Metrics:
        before = turn.parameters.clone()
        metrics = super().training_step(turn, batch)
        after = turn.parameters.clone()
        share = turn.work.share

        def correct() -> None:  # the gradient is that of the mixture; the step is v's
            gradient = turn.grad
            if turn.work.first:
                slope = float(((turn.work.mine - before) * gradient).double().sum())
                turn.work.share = min(1.0, max(0.0, share - turn.local["lr"] * slope))
                turn.work.first = False
            turn.grad = share * gradient
            turn.place(turn.work.mine)

        turn.parameters.copy_(share * turn.work.mine + (1 - share) * before)
        turn.step(batch, correct, turn.work.optimizer)
        turn.work.mine.copy_(turn.parameters)
        turn.parameters.copy_(after)
        return metrics

    def finish(self, turn: Turn) -> None:
        turn.state |= {PERSONAL: turn.work.mine, ALPHA: torch.tensor(turn.work.share, dtype=torch.float64)}
        turn.reply["alpha"] = turn.work.share

    def personalize(self, turn: Turn) -> None:
        share = float(turn.state.get(ALPHA, self.alpha))
        turn.parameters.copy_(share * turn.state.get(PERSONAL, turn.start) + (1 - share) * turn.start)
