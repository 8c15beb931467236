"""q-FedAvg: Li et al. 2020, "Fair Resource Allocation in Federated Learning", arXiv:1905.10497, algorithm 2.

Clients weigh by the loss F of the model that they are sent, to the power of q, and by nothing else. With w' a client's
model and L the Lipschitz constant of the gradients, w moves by
sum of F^q L (w' - w) / sum of (q F^(q - 1) L^2 |w' - w|^2 + L F^q).

Flower's has for F the mean loss of the local steps, which falls the more the longer clients train, and for L 1 / lr
whatever the optimiser. Here each client first looks at all of its data; the clock and `steps` do not see that.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from flwr.app import MetricRecord

from fl_bench.metrics import merge
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.strategies.updates import EachUpdate, Model, Updates

LOSS = "start_loss"


class QFedAvg(EachUpdate):
    """`lipschitz`: L; None: 1 / lr, times 1 - momentum, as far as the local `optimizer` is SGD, which says no more."""

    def __init__(
        self, q: float, lipschitz: float | None, lr: float, optimizer: Mapping[str, Any], **options: Any
    ) -> None:
        if not 0 <= q < float("inf"):
            raise ValueError(f"q={q}: must be a number from 0")
        if lipschitz is None and optimizer["name"] != "SGD":
            raise ValueError(f"lipschitz=null: must be given with {optimizer['name']}: its steps say nothing of it")
        self.q = q
        self.lipschitz = (1 - optimizer.get("momentum", 0)) / lr if lipschitz is None else lipschitz
        if not self.lipschitz > 0:
            raise ValueError(f"lipschitz={lipschitz}: must be a positive number")
        super().__init__(**options)

    def combine(self, updates: Updates, metrics: MetricRecord) -> Model:
        losses = np.maximum(updates.metric(LOSS), 1e-10)
        weights = (losses / losses.max()) ** self.q  # as only their ratios count, none can be too large a number
        steps = weights * (self.q / losses * self.lipschitz * updates.squares + 1)
        examples = updates.metric(self.weighted_by_key)
        return updates.applied(
            lambda rows: weights @ rows / steps.sum(), mean=lambda rows: examples @ rows / examples.sum()
        )


class StartingLoss(LocalAlgorithm):
    @torch.no_grad()
    def begin(self, turn: Turn) -> None:
        turn.model.eval()
        whole = islice(turn.stream("loss"), turn.batches_per_epoch)
        turn.reply[LOSS] = merge(turn.task.objective(turn.model, batch)[1] for batch in whole)["loss"].value
        turn.model.train()
