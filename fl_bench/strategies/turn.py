"""A client's turn in a round: the model, the client's data, and what the client keeps."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from types import SimpleNamespace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_bench.strategies.layers import is_statistic
from fl_bench.tasks.base import Batch, Metrics, Task


@dataclass
class Turn:
    """One client's turn in one round, as its algorithm sees it: the model, the client's data, and what it keeps.

    Workers make it; a `LocalAlgorithm` is given it. P is the number of values that travel. Vectors lie on the device of
    the model, and `split` cuts them into tensors by name.
    """

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
    examples: Callable[[NDArray], Batch]  # those at these places among the client's training rows, int [B]
    private: dict[str, Tensor] = field(default_factory=dict)  # tensors of `model` that stay with the client
    state: dict[str, Tensor] = field(default_factory=dict)  # this client's own; what is here at the end is kept
    extras: dict[str, Tensor] = field(default_factory=dict)  # [P] each: see LocalAlgorithm.extras
    reply: dict[str, float] = field(default_factory=dict)  # numbers for the server half, beside the task's metrics
    beside: Mapping[str, Tensor] = field(default_factory=dict)  # arrays that the server half sent beside the model
    sends: dict[str, Tensor] = field(default_factory=dict)  # those for it, of any shape; gone after each exchange
    work: SimpleNamespace = field(default_factory=SimpleNamespace)  # the algorithm's own values; gone after the turn

    def __post_init__(self) -> None:
        self.steps: Any = 0  # taken so far; [K, 1] where K clients take their turns at once
        self._streams: dict[str, Iterator[Batch]] = {}

    @cached_property
    def optimizer(self) -> Any:
        """The turn's main optimiser, made by the task when it is first used."""
        return self.new_optimizer()

    @cached_property
    def _named(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def new_optimizer(self) -> Any:
        """Another optimiser of the model's parameters, by `local.optimizer` and `local.lr`."""
        return self.task.optimizer(self.model, self.local)

    @property
    def amount(self) -> int:
        """How much a client trains in a turn: local epochs, or local steps where those are set."""
        return int(self.local["steps"] or self.local["epochs"])

    def batches(self, amount: int | None = None, purpose: str = "batches") -> Iterator[Batch]:
        """The next batches of `amount` local epochs, or steps where those are set; by default, of a whole turn.

        Each purpose has an order of its own, so that what an algorithm does besides leaves its main training as it is.
        The last batch of an epoch may be short.
        """
        per_unit = 1 if self.local["steps"] else self.batches_per_epoch
        return islice(self._endless(purpose), (self.amount if amount is None else amount) * per_unit)

    def draw(self, purpose: str) -> Batch:
        """The next batch of this purpose."""
        return next(self._endless(purpose))

    def step(self, batch: Batch, correct: Callable[[], None] = lambda: None, optimizer: Any = None) -> Metrics:
        """One step of the task, by default of `self.optimizer`; returns its metrics.

        `correct` is called between the backward pass and the optimiser's step.
        """
        self.steps += 1
        given = (self.model, batch, optimizer or self.optimizer, correct)
        pieces = self.local["accumulate"]
        with self._precision():
            return self.task.step(*given) if pieces == 1 else self.task.step_in_pieces(*given, pieces)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.local["precision"] == "float32":
            return nullcontext()
        return torch.autocast(self.parameters.device.type, torch.bfloat16)

    def place(self, vector: Tensor) -> None:
        """Set the model to these parameters [P], but keep what BatchNorm has counted."""
        for (name, part), target in zip(self.split(self.parameters).items(), self.split(vector).values(), strict=True):
            if not is_statistic(name):
                part.copy_(target)

    def gradient(self, batch: Batch) -> Tensor:
        """The gradient [P] of the task's loss where the model is now, a step of the turn; `grad` stays as it is."""
        self.steps += 1
        trained = {name: p for name, p in self._named.items() if p.requires_grad}
        with self._precision():
            loss, _ = self.task.objective(self.model, batch)
        parts = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        return self.flat(dict(zip(trained, parts, strict=True)))

    @property
    def grad(self) -> Tensor:
        """The gradients of the last backward pass as one new vector [P], 0 where there are none."""
        return self.flat({name: p.grad for name, p in self._named.items()})

    @grad.setter
    def grad(self, vector: Tensor) -> None:
        for name, part in self.split(vector).items():
            parameter = self._named.get(name)
            if parameter is not None and parameter.grad is not None:
                parameter.grad.copy_(part)

    def flat(self, gradients: Mapping[str, Tensor | None]) -> Tensor:
        """Gradients by tensor name as one new vector [P], 0 where there are none."""
        flat = torch.zeros_like(self.parameters)
        for name, part in self.split(flat).items():
            gradient = gradients.get(name)
            if gradient is not None:
                part.copy_(gradient)
        return flat

    def _endless(self, purpose: str) -> Iterator[Batch]:
        if purpose not in self._streams:
            self._streams[purpose] = self.stream(purpose)
        return self._streams[purpose]
