"""No federation: all training data in one place, as the ceiling for what clients can reach together.

One turn a round, on the training rows of all clients, with as many local epochs as each client would have, or as many
steps as all of them together. The data that clients hold out stays held out, so that `evaluate.clients` compares.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fl_bench.data.partition import Partition
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Metrics


class Central(FedAvg):
    def configure_train(self, *arguments: Any) -> Iterable[Message]:
        """Of the cohort's turns one, that of the lowest id: it has everybody's data."""
        return [min(super().configure_train(*arguments), key=lambda message: message.metadata.dst_node_id)]


class Everything(LocalAlgorithm):
    def steps(self, sizes: NDArray[np.int64], local: Mapping[str, Any]) -> NDArray[np.int64]:
        everybody = np.full_like(sizes, sizes.sum())
        return super().steps(everybody, local) * (len(sizes) if local["steps"] else 1)

    def rows(self, partition: Partition, client: int) -> NDArray:
        self.num_clients = len(partition.ends)
        return np.concatenate([partition.train_rows(k) for k in range(self.num_clients)])

    def train(self, turn: Turn) -> list[Metrics]:
        amount = turn.amount * (self.num_clients if turn.local["steps"] else 1)
        return [self.training_step(turn, batch) for batch in turn.batches(amount)]
