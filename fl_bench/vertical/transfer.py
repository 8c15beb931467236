"""A party without labels learns from the label holder by the few rows that both have.

Liu et al. 2018, arXiv:1812.03337, "Secure Federated Transfer Learning", section 4: each party encodes its own columns,
into one space, and the loss is that of the labels and how far the embeddings of a common row are apart. Different here:
the head is a net on one embedding, for any number of classes, where the paper's predicts by products with the label
holder's embeddings; the cross-entropy stands for its logistic loss; the label holder trains on all of its rows; and
embeddings and gradients travel as they are, where the paper encrypts them.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fl_bench import rng
from fl_bench.data.arrays import FederatedData, batches
from fl_bench.errors import ConfigError
from fl_bench.strategies.server import Given
from fl_bench.tasks.base import Batch, Metrics, Task, batch_mean
from fl_bench.vertical.columns import SPLIT
from fl_bench.vertical.holder import Holder
from fl_bench.vertical.nets import OneHead, OneHeadHolders, joined
from fl_bench.vertical.party import Party


class Target(Party):
    """The party without labels. It does what it does in split learning: embeddings go, and gradients come."""

    def model(self, task: Task, data: FederatedData) -> nn.Module:
        for key, has, wish in (
            ("num_clients", self.shape["num_clients"], 1),
            ("setting.columns", self.shape["columns"], SPLIT),
        ):
            if has != wish:
                raise ConfigError(f"{key}={has}: must be {wish} for transfer, from the server to one client")
        return joined(task, data, **self.shape, kind=OneHead).requires_grad_(False)  # type: ignore[arg-type]


class Source(Holder):
    """The label holder, which has the head. Its loss of a batch of common rows, and one of all its own, is

        CE(head(party's embedding), y) + CE(head(its own embedding), y) + gamma * mean (party's - its own embedding)^2

    where the first and the last are of the common rows, and the last is over the numbers of their embeddings. Without
    `transfer` it is the first only, in which its own columns have no part; while the party is away, the second only.
    """

    parts = OneHeadHolders
    predicts_alone = False

    def __init__(self, width: int, local_updates: int, gamma: float, transfer: bool) -> None:
        super().__init__(width, local_updates)
        if not gamma >= 0:
            raise ValueError(f"gamma={gamma}: must be 0 or more")
        self.gamma, self.transfer = gamma, transfer

    def use(self, given: Given) -> None:
        super().use(given)
        self.alone = nn.Sequential(self.net.bottom, self.net.top)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        given = self.given
        order = rng.generator(given.seed, "own batches", server_round, self.parties)
        self.own_batches = batches(np.arange(given.data.num_samples), given.local["batch_size"], order)
        return super().configure_train(server_round, arrays, config, grid)

    def _learn(self, rows: NDArray, embeddings: Mapping[int, NDArray]) -> dict[int, NDArray]:
        return super()._learn(rows, embeddings) if embeddings or self.transfer else {}

    def _objective(self, examples: Batch) -> tuple[Tensor, Metrics]:
        if not self.transfer:
            return super()._objective(examples)
        task, sent = self.given.task, self.net.embeddings
        own = self._examples(self.given.data.train, next(self.own_batches))
        own_loss, measured = task.objective(self.alone, own)
        own_metrics = {"own_loss": measured["loss"]}
        if not sent:
            return own_loss, own_metrics
        loss, metrics = super()._objective(examples)
        apart = mse_loss(sent[0], task.logits(self.net.bottom, examples))  # type: ignore[attr-defined]
        alignment = {"alignment": batch_mean(apart, len(sent[0]))}
        return loss + own_loss + self.gamma * apart, {**metrics, **own_metrics, **alignment}

    def _all(self, embeddings: Mapping[int, NDArray], count: int) -> dict[int, Tensor]:
        """Only those that have come: no zeros stand for a party that is away."""
        return super()._all(embeddings, count) if embeddings else {}
