"""A server half that keeps several models, where a star has one."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fl_bench.storage.buffers import arrays_in, contents, to_record

Models = dict[str, NDArray[np.float32]]  # by tensor name [M, ...]


class SeveralModels(Strategy):
    """M places with a model each, of which every client has one: it begins its turn, and is evaluated, with that model.

    What the clients of a place have made of it, their mean, becomes its model. Where nobody has answered, it stays.
    Then the places `mix`. What the server tests is the mean of all places. A round in which too few have answered
    changes nothing.

    Must override:
        `mix` and `told`.
    """

    columns: Sequence[str] = ()  # of metrics.csv, which `told` fills

    def __init__(self, plain: Strategy, place: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
        self.plain = plain
        self.place = place  # of each client [num_clients]
        self.shares = shares  # of each place in the mean [M]
        self.models: Models = {}  # there are none before the first round

    @abstractmethod
    def mix(self, round: int, heard: NDArray[np.int64]) -> None:
        """Change `self.models` as the places exchange them; `heard` are those with a new one, rising."""

    @abstractmethod
    def told(self, round: int, mean: Models) -> dict[str, float]:
        """The columns of a round, once the places have exchanged models; `mean` is that of all places."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Called by the round loop: the plain mean's messages, with the model of each client's place."""
        if not self.models:
            count = len(self.shares)
            self.models = {name: np.repeat(contents(array)[None], count, axis=0) for name, array in arrays.items()}
        return self._addressed(self.plain.configure_train(server_round, arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Called by the round loop, with the mean of each place; returns the mean of all places."""
        replies = list(replies)
        record, metrics = self.plain.aggregate_train(server_round, replies)
        if record is None or metrics is None:
            return None, None
        heard = []
        for reply in (reply for reply in replies if not reply.has_error()):
            heard.append(self.place[reply.metadata.src_node_id])
            for name, array in arrays_in(reply.content).items():
                self.models[name][heard[-1]] = contents(array)
        self.mix(server_round, np.sort(heard))
        mean = self.average()
        for name, value in self.told(server_round, mean).items():
            metrics[name] = value
        return to_record(mean), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Called by the round loop: those who never train have no place, and are sent the mean."""
        return self._addressed(self.plain.configure_evaluate(server_round, arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Called by the round loop: as the plain mean does it."""
        return self.plain.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Called by Flower only."""
        self.plain.summary()

    def average(self) -> Models:
        """The mean of all places."""
        return {name: weighted(self.shares, values) for name, values in self.models.items()}

    def _addressed(self, messages: Iterable[Message]) -> list[Message]:
        """The same messages, each with the model of its client's place: one content for all of a place."""
        messages = list(messages)
        known: dict[int, RecordDict] = {}
        for message in messages if self.models else ():
            if (client := message.metadata.dst_node_id) < len(self.place):
                place = int(self.place[client])
                if place not in known:
                    model = to_record({name: values[place] for name, values in self.models.items()})
                    (name,) = message.content.array_records
                    known[place] = RecordDict({**message.content, name: model})
                message.content = known[place]
        return messages

    def __getstate__(self) -> Mapping[str, object]:
        """What a checkpoint keeps: the rest is the same in every round."""
        return {"plain": self.plain, "models": self.models}


def weighted(weights: NDArray[np.float64], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sum of weights [M] times values [M, ...], added up in float64 in this order."""
    total = np.zeros(values.shape[1:])
    for k in np.flatnonzero(weights):
        total += np.multiply(weights[k], values[k], dtype=np.float64)
    return total.astype(np.float32)
