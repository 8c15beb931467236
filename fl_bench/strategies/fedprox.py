"""FedProx: Li et al. 2020, "Federated Optimization in Heterogeneous Networks", arXiv:1812.06127, algorithm 2.

Clients minimise their loss plus mu/2 * |w - w_global|^2, so that a long or skewed local training cannot run away.
"""

from collections.abc import Iterable
from typing import Any, Literal

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn


class FedProx(flower.FedProx):
    """Flower's server half, and with `mu="adaptive"` the paper's heuristic (appendix C.3.3, section 5.3.2).

    mu starts at 0, rises by 0.1 when the training loss rises, and falls by 0.1 after five falls in a row. The loss is
    that of the cohort's steps, where the paper has that of all data.
    """

    plain_mean = True  # of the models it makes what FedAvg does

    def __init__(self, mu: float | Literal["adaptive"], **options: Any) -> None:
        if mu != "adaptive" and not 0 <= mu < float("inf"):
            raise ValueError(f"mu={mu}: must be a number from 0, or adaptive")
        super().__init__(proximal_mu=0.0 if mu == "adaptive" else mu, **options)
        self.adaptive = self.reads_losses = mu == "adaptive"
        self.last_loss: float | None = None
        self.falls = 0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        if self.adaptive and metrics is not None:
            self._adapt(float(metrics["train_loss"]))  # type: ignore[arg-type]
            metrics["mu"] = self.proximal_mu
        return arrays, metrics

    def _adapt(self, loss: float) -> None:
        last, self.last_loss = self.last_loss, loss
        if last is None:
            return
        self.falls = self.falls + 1 if loss < last else 0
        tenths = round(self.proximal_mu * 10)  # counted in tenths, so that mu stays a round number
        if loss > last:
            tenths += 1
        elif self.falls == 5:
            tenths, self.falls = max(tenths - 1, 0), 0
        self.proximal_mu = tenths / 10


class Proximal(LocalAlgorithm):
    """The client half: adds mu * (w - w_global), the gradient of the proximal term."""

    protected_by = ("example", "local")
    stacks = True

    def correct(self, turn: Turn) -> None:
        turn.grad += float(turn.config["proximal-mu"]) * (turn.parameters - turn.start)
