"""Server halves that look at each client's update: those that leave some out, or give each a factor of its own."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fl_bench.storage.buffers import arrays_in
from fl_bench.strategies.layers import is_statistic

Floats = NDArray[np.float64]
Model = dict[str, NDArray]  # by tensor name


class Updates:
    """The updates of n clients, in the order of the clients; an update is a client's model less what was sent.

    Lengths, distances and sums are in float64, and of updates: of whole models, float32 would keep few digits of what
    tells clients apart. Statistics of BatchNorm are no part of an update: they stay as they are.
    """

    def __init__(self, sent: ArrayRecord, models: Sequence[ArrayRecord], metrics: Sequence[MetricRecord]) -> None:
        self.sent: Model = {name: array.numpy() for name, array in sent.items()}
        self._models: list[Model] = [{name: array.numpy() for name, array in model.items()} for model in models]
        self._metrics = metrics

    def __len__(self) -> int:
        return len(self._models)

    def metric(self, name: str) -> Floats:
        """What each client says of `name` [n]."""
        return np.array([metrics[name] for metrics in self._metrics], np.float64)

    def of(self, name: str) -> Floats:
        """The updates of a tensor [n, its size]; of a statistic, its values."""
        rows = np.empty((len(self), self.sent[name].size))
        for row, model in zip(rows, self._models, strict=True):
            row[:] = model[name].ravel()
        return rows if is_statistic(name) else rows - self.sent[name].ravel()

    @cached_property
    def squares(self) -> Floats:
        """The squared length of each update [n]."""
        return sum(((rows**2).sum(axis=1) for rows in self._moved()), np.zeros(len(self)))

    @cached_property
    def distances(self) -> Floats:
        """The squared distance of each two updates [n, n]."""
        products = sum((rows @ rows.T for rows in self._moved()), np.zeros((len(self), len(self))))
        squares = np.diag(products)
        return np.maximum(squares[:, None] + squares - 2 * products, 0)

    def applied(self, rule: Callable[[Floats], Floats], mean: Callable[[Floats], Floats] | None = None) -> Model:
        """What was sent and, of each tensor, what `rule` makes of the updates: from [n, size] to [size].

        Statistics become what `mean`, or where there is none `rule`, makes of them.
        """
        made = {}
        for name, sent in self.sent.items():
            rows = self.of(name)
            values = (mean or rule)(rows) if is_statistic(name) else sent.ravel() + rule(rows)
            made[name] = values.reshape(sent.shape).astype(sent.dtype)
        return made

    def _moved(self) -> Iterable[Floats]:
        return (self.of(name) for name in self.sent if not is_statistic(name))


class EachUpdate(FedAvg):
    """A server half that makes the new model of all clients' updates; its yaml says `needs_each_client: true`.

    Must override:
        `combine`.

    May override:
        What Flower's `FedAvg` has; then call `super()`. Numbers, text, arrays and tensors among the attributes are
        saved in checkpoints. And the class attributes below.

    Examples:
        >>> class Longest(EachUpdate):
        ...     def combine(self, updates, metrics):
        ...         longest = updates.squares.argmax()
        ...         return updates.applied(lambda rows: rows[longest])
    """

    of_nothing = False  # whether it makes a model also where nobody has answered
    columns: Sequence[str] = ()  # what it adds to `metrics` that is no metric of the training

    @abstractmethod
    def combine(self, updates: Updates, metrics: MetricRecord) -> Model | None:
        """The new model; None keeps the old one, and Flower's log should say why.

        What is added to `metrics` becomes a column `train_...` of metrics.csv, and without that prefix where `columns`
        names it.
        """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Called by the round loop: Flower's, and what is sent is kept for `combine`."""
        self.sent = arrays
        if not grid.get_node_ids():  # Flower would wait for somebody
            return []
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Called by the round loop: the replies of those who answered are taken apart for `combine`."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid and not self.of_nothing:
            return None, None
        contents = [reply.content for reply in valid]
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key) if valid else MetricRecord()
        models = [arrays_in(content) for content in contents]
        numbers = [next(iter(content.metric_records.values())) for content in contents]
        model = self.combine(Updates(self.sent, models, numbers), metrics)
        if model is None:
            return None, None
        return ArrayRecord({name: Array(values) for name, values in model.items()}), metrics
