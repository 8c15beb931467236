"""What the fleet knows of its clients' work, and how much of it a worker is sent at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fl_bench.federation.update import ExactMean


class Pack(NamedTuple):
    """The messages of several clients that one worker is sent as one."""

    worker: int
    messages: list[Message]
    mean: ExactMean  # of models that started from the one they carry


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
