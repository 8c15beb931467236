"""What the fleet knows of its clients' work, and how much of it a worker is sent at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fl_bench.federation.exchange import beside_in, by_client
from fl_bench.federation.update import ExactMean
from fl_bench.storage.buffers import BESIDE

Same = tuple[int, ...]


def same(content: RecordDict) -> Same:
    """What one message to a worker has of this content for all of its clients: the very records, but what is beside
    the model.
    """
    return tuple(id(record) for name, record in content.items() if name != BESIDE)


class Pack(NamedTuple):
    """The messages of several clients that one worker is sent as one."""

    worker: int
    messages: list[Message]
    mean: ExactMean  # of models that started from the one they carry

    @property
    def content(self) -> RecordDict:
        """What the worker is sent for all of them."""
        first = self.messages[0].content
        if not any(BESIDE in message.content for message in self.messages):
            return first
        its = {message.metadata.dst_node_id: beside_in(message.content) for message in self.messages}
        return RecordDict({**first, BESIDE: by_client(its)})


@dataclass(frozen=True)
class Loads:
    """What the fleet needs to know of the clients."""

    most: int  # that one may weigh in a mean
    steps: NDArray[np.int64]  # of a turn of each [num_clients]: its share of a worker's time


@dataclass(frozen=True)
class Homes:
    """Where clients are whose turn not every node can take."""

    owners: NDArray[np.int64]  # of each client the place of its node among the grid's; -1: it holds nothing anywhere
    tester: int  # the node that has the test set
    names: Sequence[str]  # of the nodes
