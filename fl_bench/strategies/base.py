"""What strategies are made of: a client half, by itself plain local training, and a server half for some."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_bench.data.partition import Partition
from fl_bench.errors import ConfigError
from fl_bench.tasks.base import Batch, Metrics, Task

ALL_EXAMPLES = "all-examples"  # in the config of every round: how many training examples all clients have together


@dataclass
class Turn:
    """One client's turn in one round, as its algorithm sees it: the model, the client's data, and what it keeps."""

    client: int
    round: int
    task: Task
    local: Mapping[str, Any]  # the node `local` of the config
    model: nn.Module  # being trained, in place
    parameters: Tensor  # the tensors of `model` that travel, as one flat view [P]
    start: Tensor  # what the server sent, flat [P]
    split: Callable[[Tensor], dict[str, Tensor]]  # a flat vector [P] as views by tensor name
    config: Mapping[str, Any]  # what the strategy's server half sent along
    stream: Callable[[str], Iterator[Batch]]  # for a purpose: batches without end, each epoch shuffled anew
    batches_per_epoch: int
    private: dict[str, Tensor] = field(default_factory=dict)  # tensors of `model` that stay with the client
    state: dict[str, Tensor] = field(default_factory=dict)  # this client's own; what is here at the end is kept
    extras: dict[str, Tensor] = field(default_factory=dict)  # [P] each: see LocalAlgorithm.extras
    reply: dict[str, float] = field(default_factory=dict)  # numbers for the server half, beside the task's metrics

    def __post_init__(self) -> None:
        self.steps: Any = 0  # [K, 1] where K clients take their turns at once
        self._streams: dict[str, Iterator[Batch]] = {}

    @cached_property
    def optimizer(self) -> Any:
        return self.new_optimizer()

    @cached_property
    def _named(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def new_optimizer(self) -> Any:
        return self.task.optimizer(self.model, self.local)

    @property
    def amount(self) -> int:
        """How much a client trains in a turn: local epochs, or local steps where those are set."""
        return int(self.local["steps"] or self.local["epochs"])

    def batches(self, amount: int | None = None, purpose: str = "batches") -> Iterator[Batch]:
        """The next batches of `amount` local epochs, or steps where those are set; by default, of a whole turn.

        Each purpose has an order of its own, so that what an algorithm does besides leaves its main training as it is.
        """
        per_unit = 1 if self.local["steps"] else self.batches_per_epoch
        return islice(self._endless(purpose), (self.amount if amount is None else amount) * per_unit)

    def draw(self, purpose: str) -> Batch:
        """The next batch of this purpose."""
        return next(self._endless(purpose))

    def step(self, batch: Batch, correct: Callable[[], None] = lambda: None, optimizer: Any = None) -> Metrics:
        """One step of the task; `correct` is called between the backward pass and the optimiser's step."""
        self.steps += 1
        return self.task.step(self.model, batch, optimizer or self.optimizer, correct)

    def place(self, vector: Tensor) -> None:
        """Go to these parameters [P], but keep what BatchNorm has counted."""
        for (name, part), target in zip(self.split(self.parameters).items(), self.split(vector).values(), strict=True):
            if not is_statistic(name):
                part.copy_(target)

    def gradient(self, batch: Batch) -> Tensor:
        """The gradient [P] of the task's loss where the model is now; `grad` stays as it is."""
        trained = {name: p for name, p in self._named.items() if p.requires_grad}
        loss, _ = self.task.objective(self.model, batch)
        parts = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        return self._flat(dict(zip(trained, parts, strict=True)))

    @property
    def grad(self) -> Tensor:
        """The gradients of the last backward pass as one new vector [P], 0 where there are none."""
        return self._flat({name: p.grad for name, p in self._named.items()})

    @grad.setter
    def grad(self, vector: Tensor) -> None:
        for name, part in self.split(vector).items():
            parameter = self._named.get(name)
            if parameter is not None and parameter.grad is not None:
                parameter.grad.copy_(part)

    def _endless(self, purpose: str) -> Iterator[Batch]:
        if purpose not in self._streams:
            self._streams[purpose] = self.stream(purpose)
        return self._streams[purpose]

    def _flat(self, gradients: Mapping[str, Tensor | None]) -> Tensor:
        flat = torch.zeros_like(self.parameters)
        for name, part in self.split(flat).items():
            gradient = gradients.get(name)
            if gradient is not None:
                part.copy_(gradient)
        return flat


class LocalAlgorithm:
    """Local training by the task's own optimiser; a subclass overrides the moments where it differs."""

    stacks = True  # whether its moments can be those of many clients at once; each class says so for itself
    bounded = False  # whether what is sent keeps a bound that a lossy compression would break
    extras: Sequence[str] = ()  # names of vectors [P] that travel beside the model, there and back; at first zero

    def check(self, task: Task) -> None:
        """Before a run: raise ConfigError where this algorithm cannot work on a task."""

    def private(self, model: nn.Module) -> set[str]:
        """The names of the tensors of `model` that stay with the client and are kept for its next turn."""
        return set()

    def rows(self, partition: Partition, client: int) -> NDArray:
        """The training rows that a client's turn works on."""
        return partition.train_rows(client)

    def begin(self, turn: Turn) -> None:
        """Before the first step: the model is the server's, with this client's private tensors."""

    def train(self, turn: Turn) -> list[Metrics]:
        """The client's local training; returns the metrics of its steps."""
        return [self.training_step(turn, batch) for batch in turn.batches()]

    def training_step(self, turn: Turn, batch: Batch) -> Metrics:
        return turn.step(batch, lambda: self.correct(turn))

    def correct(self, turn: Turn) -> None:
        """After each backward pass: the gradients may be changed before the optimiser takes its step."""

    def finish(self, turn: Turn) -> None:
        """After the last step: `turn.parameters` is what the client will send, and may be changed."""

    def personalize(self, turn: Turn) -> None:
        """Before the client is evaluated on its own data: turn the server's model into the one that it would use."""


def layers(model: nn.Module) -> dict[str, set[str]]:
    """The layers of a model in their order: by name, the names of their own parameters and buffers."""
    found = {}
    for name, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        if parameters:
            keys = [*parameters, *dict(module.named_buffers(recurse=False))]
            found[name] = {f"{name}.{key}" if name else key for key in keys}
    return found


def last_layers(model: nn.Module, wanted: int | Sequence[str]) -> set[str]:
    """The names of the tensors of the last `wanted` layers, or of the layers and modules that `wanted` names."""
    known = layers(model)
    if isinstance(wanted, int):
        if wanted < 0:
            raise ConfigError(f"strategy.personal_layers={wanted}: must be 0 or more, or a list of names")
        chosen = list(known)[max(0, len(known) - wanted) :]
    else:
        chosen = []
        for start in wanted:
            inside = [name for name in known if f"{name}.".startswith(f"{start}.")]
            if not inside:
                raise ConfigError(f"strategy.personal_layers: {start} is no layer; the model has {', '.join(known)}")
            chosen += inside
    return set().union(*(known[name] for name in chosen))


def need_one_loss(algorithm: LocalAlgorithm, task: Task) -> None:
    """For algorithms that take or move the gradient of a step's loss."""
    if not task.one_loss:
        names = type(algorithm).__name__, type(task).__name__
        raise ConfigError("strategy: {} works on the gradient of one loss, and task {} has several".format(*names))


def is_statistic(name: str) -> bool:
    """Whether a tensor is what BatchNorm has counted: a mean of such is right, an extrapolation may be impossible."""
    return name.endswith(("running_mean", "running_var"))


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
