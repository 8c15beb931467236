"""What client halves are made of: by itself plain local training."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fl_bench.data.arrays import Columns, FederatedData
from fl_bench.data.partition import Partition
from fl_bench.errors import ConfigError
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Batch, Metrics, Task


class Planned(NamedTuple):
    """One exchange of a round, as it is planned."""

    steps: NDArray[np.int64]  # of each client [num_clients]
    down: Mapping[str, NDArray] = {}  # beside the model to each client: only the type and the shape of these count
    up: Mapping[str, NDArray] = {}


class LocalAlgorithm:
    """Local training by the task's own optimiser: FedAvg's client. A subclass overrides the moments where it differs.

    A worker makes one object and calls it for one client after another, so nothing of a client belongs into its
    attributes: what it works with in a turn is in `turn.work`, what a client keeps for its next turn in `turn.state`.

    Must override:
        Nothing.

    May override:
        Before the run `suit`, `model`, `shared`, `private`, `served`, `steps` and `planned`. In a turn, in this
        order: `rows`, `begin`, `train` (or only `training_step`, or only `correct`), `go_on`, `finish`. Before a client
        is evaluated: `personalize`; where the server half has the labels, `test`. And the class attributes below.

    With `engine.vectorize` a turn may be that of K clients: vectors [P] are then [K, P]. A class that sets
    `stacks = True` in its own body is written for both; all others train one client at a time.

    In the same way a class says what it is `protected_by`. With "example" all that it sends follows from `turn.step`
    and `turn.gradient`, each called with a batch of its own, at which it looks in no other way. With "local" the server
    half goes by nothing of `turn.reply` that depends on the data.

    A class whose turns take more steps than plain training says so by `passes`, or by `steps` where it is no constant
    factor: the virtual clock plans with it. A step is a forward and backward pass over one batch, in pieces or not:
    a call of `turn.step` or `turn.gradient`. To look at data without a gradient is none, though two such looks, as
    MOON takes at each batch, cost nearly as much. The column `steps` has what was done.

    Examples:
        Clients that send half of their update:

        >>> class Half(LocalAlgorithm):
        ...     stacks = True
        ...
        ...     def finish(self, turn: Turn) -> None:
        ...         turn.place((turn.start + turn.parameters) / 2)
    """

    protected_by: Sequence[str] = ("example", "local")  # what of privacy= covers all it sends; each says so for itself
    stacks = True  # whether its moments can be those of many clients at once; each class says so for itself
    passes: int = 1  # steps for each step of plain training
    measures = True  # whether its steps have metrics: a client that does not see the loss has none
    has_test = False  # whether the server half has the labels of the test rows, and the client a `test` for it
    bounded = False  # whether what is sent keeps a bound that a lossy compression would break
    opaque = False  # whether it trains models that are no vectors (models/opaque.py), and no others
    uniform = False  # whether all clients weigh the same, whatever `weighting` says
    only_beside = False  # whether what travels in training lies beside the vector, which is then empty
    extras: Sequence[str] = ()  # names of vectors [P] that travel beside the model, there and back; at first zero

    def suit(self, task: Task) -> None:
        """Before a run: raise ConfigError where this algorithm cannot work on a task."""

    def model(self, task: Task, data: FederatedData) -> nn.Module:
        """The model of a worker, before the first round; its random values come from torch's global seed."""
        return task.model(data)

    def shared(self, task: Task, model: nn.Module) -> list[str]:
        """The names of the tensors of `model` that make the server's model, as a flat vector [P]."""
        return task.shared(model)

    def private(self, model: nn.Module) -> set[str]:
        """The names of the tensors of `model` that stay with the client and are kept for its next turn.

        They are neither sent nor averaged, so there is no whole global model, and no `test_*`. See
        `fl_bench.strategies.layers.last_layers`.
        """
        return set()

    def served(self, model: nn.Module) -> set[str]:
        """The names of the tensors of `model` that the server half trains by itself (`OwnPart`).

        They are a part of the global model that never travels: at clients these tensors are 0, and stay so.
        """
        return set()

    def steps(self, sizes: NDArray[np.int64], local: Mapping[str, Any]) -> NDArray[np.int64]:
        """Before a run: how many steps the clock plans for a turn of each client, int64 [num_clients].

        `sizes` [num_clients] are the numbers of their training rows, `local` the node of the config.
        """
        plain = local["steps"] or local["epochs"] * -(-sizes // local["batch_size"])
        steps: NDArray[np.int64] = self.passes * (sizes > 0) * plain
        return steps

    def planned(self, sizes: NDArray[np.int64], local: Mapping[str, Any]) -> Sequence[Planned]:
        """Before a run: what the clock plans for each exchange of a round, where there are several."""
        return [Planned(self.steps(sizes, local))]

    def rows(self, partition: Partition, client: int) -> NDArray:
        """The training rows that a client's turn works on, int64 [N]; with `weighting=examples`, N is its weight."""
        return partition.train_rows(client)

    def begin(self, turn: Turn) -> None:
        """Before the first step: the model is the server's, with this client's private tensors."""

    def train(self, turn: Turn) -> list[Metrics]:
        """The client's local training; returns the metrics of its steps."""
        return [self.training_step(turn, batch) for batch in turn.batches()]

    def go_on(self, turn: Turn) -> list[Metrics]:
        """In each later exchange of a round, where the server half asks for several (`strategies/server.py`): what
        comes of `turn.beside`, which is new. By default the client trains on.
        """
        return self.train(turn)

    def training_step(self, turn: Turn, batch: Batch) -> Metrics:
        """One step of `train` on one batch; returns its metrics."""
        return turn.step(batch, lambda: self.correct(turn))

    def correct(self, turn: Turn) -> None:
        """After each backward pass: the gradients, `turn.grad`, may be changed before the optimiser takes its step."""

    def finish(self, turn: Turn) -> None:
        """After the last step, without gradients: `turn.parameters` [P] is what the client will send.

        It may be changed in place. Here `turn.state`, `turn.extras` and `turn.reply` are filled.
        """

    def personalize(self, turn: Turn) -> None:
        """Before the client is evaluated on its own data: turn the server's model into the one that it would use."""

    def test(self, turn: Turn, columns: Columns) -> None:
        """Where the server half tests the model itself (`OwnPart`), without gradients: what the client makes of these
        columns of the test rows goes into `turn.sends`.
        """


def need_one_loss(algorithm: LocalAlgorithm, task: Task) -> None:
    """For the `suit` of algorithms that take or move the gradient of a step's loss.

    Raises:
        ConfigError: where a step of the task minimises several losses (`one_loss` is False).
    """
    if not task.one_loss:
        names = type(algorithm).__name__, type(task).__name__
        raise ConfigError("strategy: {} works on the gradient of one loss, and task {} has several".format(*names))
