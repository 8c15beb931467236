"""Server halves: what a strategy is told in each round, and means that are moved, one tensor after the other."""

from abc import abstractmethod
from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fl_bench.strategies.layers import is_statistic

# What every strategy is told by the config of a round.
ALL_EXAMPLES = "all-examples"  # in training: how many examples all clients have together
LOWER_IS_BETTER = "lower-is-better"  # in evaluation: the names of such metrics


class MovedMean(FedAvg):
    """A server half that makes the new model from what it sent and the clients' mean, one tensor after the other."""

    @abstractmethod
    def move(self, name: str, sent: NDArray, mean: NDArray, part: float, metrics: MetricRecord) -> NDArray:
        """The tensor `name` of the new model; `part` is how much of all training examples the clients' mean is of."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.sent, self.all_examples = arrays, int(config[ALL_EXAMPLES])  # type: ignore[arg-type]
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        means, metrics = super().aggregate_train(server_round, replies)
        if means is None or metrics is None:
            return means, metrics
        answers = [next(iter(reply.content.metric_records.values())) for reply in replies if not reply.has_error()]
        part = sum(answer[self.weighted_by_key] for answer in answers) / self.all_examples  # type: ignore[misc, operator]
        moved = {
            name: mean
            if is_statistic(name)
            else Array(self.move(name, self.sent[name].numpy(), mean.numpy(), part, metrics))
            for name, mean in means.items()
        }
        return ArrayRecord(moved), metrics
