"""Server halves: what a strategy is told in each round, and means that are moved, one tensor after the other."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_bench.data.arrays import FederatedData
from fl_bench.data.partition import Partition
from fl_bench.metrics import Summand
from fl_bench.strategies.layers import is_statistic
from fl_bench.tasks.base import Task

# What every strategy is told by the config of a round.
ALL_WEIGHTS = "all-weights"  # in training: what all clients weigh together
SECRET_NOISE = "secret-noise"  # in training: whether noise must not follow from the seed, as the sites are real
LOWER_IS_BETTER = "lower-is-better"  # in evaluation: the names of such metrics


@runtime_checkable
class Exchanges(Protocol):
    """A server half whose rounds have several exchanges: `configure_train` makes the messages of the first of them.

    What clients send beside the model is in a reply's record `beside`, and so is what is sent to them. After the last
    exchange they send their models, of which `aggregate_train` makes the new one.
    """

    def exchanges(self, server_round: int) -> int:
        """How many there are in a round: 1 or more."""

    def go_on(
        self, server_round: int, exchange: int, asked: Sequence[Message], replies: Sequence[Message]
    ) -> Iterable[Message]:
        """The messages of exchange 1, 2, ... of a round, given those of the one before, and what has come of it.

        They have the record `arrays` of the first ones, which is not counted again: what is added up begins there.
        """


@dataclass(frozen=True)
class Given:
    """What a server half is given that trains or tests a part of the model itself."""

    seed: int
    local: Mapping[str, Any]  # the node `local` of the config
    batch_size: int  # of evaluation
    task: Task
    data: FederatedData
    partition: Partition  # of the training rows
    model: nn.Module  # not trained yet, and not its own
    device: str


class OwnPart:
    """What a server half has beside the model that travels: by default, as those of Flower's, nothing.

    Must override:
        Nothing.

    May override:
        All. A part of the model that is trained here and not sent is in `tensors`. Where nobody else has the whole
        model, an exchange with the clients says what it is worth: `configure_test` and `aggregate_test`.
    """

    vertical = False  # whether it is for clients that hold columns, and for no others
    splits = False  # whether clients with whole rows have the other part; see `LocalAlgorithm.served`

    def use(self, given: Given) -> None:
        """Before the run: what there is."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Its part of the model, by the names that the tensors have in the whole; model.safetensors has them too."""
        return {}

    def configure_test(self, server_round: int) -> Iterable[Message]:
        """The messages of a round's test, to which clients answer by `LocalAlgorithm.test`."""
        return ()

    def aggregate_test(self, server_round: int, replies: Iterable[Message]) -> Mapping[str, Summand]:
        """The metrics on the test rows, by the arrays beside in the replies."""
        return {}


def own_part(strategy: Strategy) -> OwnPart:
    """What this server half has."""
    return strategy if isinstance(strategy, OwnPart) else OwnPart()


class MovedMean(FedAvg):
    """A server half that makes the new model from what it sent and the clients' mean, one tensor after the other.

    Must override:
        `move`.

    May override:
        What Flower's `FedAvg` has; then call `super()`. Numbers, text, arrays and tensors among the attributes are
        saved in checkpoints.

    Statistics of BatchNorm are not moved: they become their mean.

    Examples:
        >>> class Halfway(MovedMean):
        ...     def move(self, name, sent, mean, part, metrics):
        ...         return (sent + mean) / 2
    """

    @abstractmethod
    def move(self, name: str, sent: NDArray, mean: NDArray, part: float, metrics: MetricRecord) -> NDArray:
        """The tensor `name` of the new model, in the shape of `sent` and `mean`.

        `extras` of the client half have names of their own, `<extra>/<tensor>`.

        Args:
            name: of the tensor, as in the model's `state_dict`.
            sent: what the clients started from.
            mean: the clients' mean, by `weighting`.
            part: how much of the weight of all clients that mean is of, from 0 to 1.
            metrics: the mean metrics of the clients' training, and the mean of each number of `turn.reply`.
        """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Called by the round loop: Flower's, and what is sent is kept for `move`."""
        self.sent, self.all_weights = arrays, int(config[ALL_WEIGHTS])  # type: ignore[arg-type]
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Called by the round loop: Flower's mean, moved by `move`."""
        replies = list(replies)
        means, metrics = super().aggregate_train(server_round, replies)
        if means is None or metrics is None:
            return means, metrics
        answers = [next(iter(reply.content.metric_records.values())) for reply in replies if not reply.has_error()]
        part = sum(answer[self.weighted_by_key] for answer in answers) / self.all_weights  # type: ignore[misc, operator]
        moved = {
            name: mean
            if is_statistic(name)
            else Array(self.move(name, self.sent[name].numpy(), mean.numpy(), part, metrics))
            for name, mean in means.items()
        }
        return ArrayRecord(moved), metrics
