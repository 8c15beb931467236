"""Per-FedAvg: Fallah et al. 2020, "Personalized Federated Learning: A Meta-Learning Approach", arXiv:2002.07948.

MAML (Finn et al. 2017, arXiv:1703.03400) as a federation: clients look for a model that is good not as it is but after
one step of gradient descent on their own data, w - alpha * grad f(w). A client is evaluated after such a step.
"""

from typing import Literal

from fl_bench.strategies.base import LocalAlgorithm, need_one_loss
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Batch, Metrics, Task

PLAIN_LR = 0.01  # what a step of plain gradient descent can be where the local optimiser is Adam, say


class Meta(LocalAlgorithm):
    """`order`: "first" leaves out second derivatives (FO), "hessian_free" takes them by differences of `delta` (HF).

    The outer step is the task's own, by `local.lr` (the paper's beta). Each inner step has a batch of its own, and
    is one of plain gradient descent: without `alpha`, `local.lr` is its length too, but not that of Adam and its like.
    """

    protected_by = ("local",)  # with order hessian_free steps share a batch

    def __init__(
        self,
        alpha: float | None,
        order: Literal["first", "hessian_free"],
        delta: float,
    ) -> None:
        if alpha is not None and alpha < 0:
            raise ValueError(f"alpha={alpha}: must be 0 or more")
        if delta <= 0:
            raise ValueError(f"delta={delta}: must be a positive number")
        self.alpha, self.order, self.delta = alpha, order, delta
        self.passes = 4 if order == "hessian_free" else 2

    def suit(self, task: Task) -> None:
        need_one_loss(self, task)

    def training_step(self, turn: Turn, batch: Batch) -> Metrics:
        here = turn.parameters.clone()
        self.personalize(turn)

        def correct() -> None:  # the gradient is that of the adapted model; the step is taken from `here`
            outer = turn.grad
            if self.order == "hessian_free":
                third = turn.draw("hessian")
                turn.place(here + self.delta * outer)
                ahead = turn.gradient(third)
                turn.place(here - self.delta * outer)
                turn.grad = outer - self._alpha(turn) * (ahead - turn.gradient(third)) / (2 * self.delta)
            turn.place(here)

        return turn.step(batch, correct)

    def personalize(self, turn: Turn) -> None:
        turn.parameters.sub_(self._alpha(turn) * turn.gradient(turn.draw("inner")))

    def _alpha(self, turn: Turn) -> float:
        if self.alpha is not None:
            return self.alpha
        return float(turn.local["lr"]) if turn.local["optimizer"]["name"] == "SGD" else PLAIN_LR
