"""SCAFFOLD: Karimireddy et al. 2020, "Stochastic Controlled Averaging for Federated Learning", arXiv:1910.06378.

Every client keeps a control variate c_i, an estimate of its own gradient, and the server their mean c. Adding c - c_i
to each local gradient takes away what makes clients drift apart.
"""

from typing import Any

import torch
from flwr.app import MetricRecord
from numpy.typing import NDArray

from fl_bench.strategies.base import LocalAlgorithm, need_one_loss
from fl_bench.strategies.server import MovedMean
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Task

VARIATE = "variate"


class Scaffold(MovedMean):
    """x moves by `server_lr` to the mean of the clients' models, and c, by their part of all, to the mean of theirs.

    That part is of the examples, as means are weighted by them: c stays the weighted mean of the c_i.
    """

    def __init__(self, server_lr: float, **options: Any) -> None:
        if not server_lr > 0:
            raise ValueError(f"server_lr={server_lr}: must be a positive number")
        super().__init__(**options)
        self.server_lr = server_lr

    def move(self, name: str, sent: NDArray, mean: NDArray, part: float, metrics: MetricRecord) -> NDArray:
        rate = part if name.startswith(f"{VARIATE}/") else self.server_lr
        return mean if rate == 1 else sent + rate * (mean - sent)


class ControlVariates(LocalAlgorithm):
    """c_i becomes the mean of the gradients of the client's steps.

    That is the paper's option II, (x - y_i) / (K lr) - c + c_i, where the steps are those of plain SGD; unlike it,
    it is a gradient with momentum or Adam too.
    """

    stacks = True
    protected_by = ("example", "local")
    extras = (VARIATE,)

    def suit(self, task: Task) -> None:
        need_one_loss(self, task)

    def begin(self, turn: Turn) -> None:
        ours, mine = turn.extras[VARIATE], turn.state.get(VARIATE)
        turn.work.correction = ours - mine if mine is not None else ours.clone()
        turn.work.sum = torch.zeros_like(turn.parameters)

    def correct(self, turn: Turn) -> None:
        gradient = turn.grad
        turn.work.sum += gradient
        turn.grad = gradient + turn.work.correction

    def finish(self, turn: Turn) -> None:
        turn.state[VARIATE] = turn.work.sum / turn.steps
        # The server takes a mean of what is sent: c + (c_i' - c_i), to have c and the mean of the differences.
        turn.extras[VARIATE] = turn.state[VARIATE] + turn.work.correction
