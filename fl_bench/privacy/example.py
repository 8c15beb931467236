"""DP-SGD: Abadi et al. 2016, "Deep Learning with Differential Privacy", arXiv:1607.00133, algorithm 1, at each client.

Each row is in a step's batch with probability q = batch size / rows, whatever the others do. The gradient of each
example is shortened to the norm C; a step takes their sum and noise N(0, (z C)^2), divided by the batch size that is
expected. A batch without an example is a step of noise. Neighbours are data of a client with one row more, or less.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_bench.errors import ConfigError, in_one_line
from fl_bench.privacy.base import Noise
from fl_bench.strategies.accountant import epsilon

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fl_bench.strategies.turn import Turn
    from fl_bench.tasks.base import Batch, Metrics, Task

Sums = dict[str, "Tensor"]


@dataclass
class DPSGD(Noise):
    """Every step of a turn is one of DP-SGD: all that follows from its gradients is covered, momentum and all."""

    level = "example"

    def suit(self, task: "Task", model: "nn.Module", batch: "Batch") -> None:
        from torch.nn.modules.batchnorm import _BatchNorm

        from fl_bench.tasks.base import Task
        from fl_bench.tasks.examples import CLOSE

        name = type(task).__name__
        if type(task).step is not Task.step:
            raise ConfigError(f"privacy: a step of task {name} is not one loss and one optimiser; use privacy=local")
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise ConfigError("model.norm=batch: BatchNorm mixes the examples of a batch; add model.norm=group")
        try:
            apart = _difference(task, model, batch)
        except Exception as error:
            raise ConfigError(f"privacy: examples cannot be taken one by one: {in_one_line(error)}") from error
        if apart > CLOSE:
            raise ConfigError(f"privacy: the loss of a batch of task {name} is not the mean of its examples' losses")

    def batches(self, rows: NDArray, size: int, draws: np.random.Generator) -> Iterator[NDArray]:
        while True:
            yield draws.permutation(rows[draws.random(len(rows)) < size / len(rows)])

    def begin(self, turn: "Turn", rows: int) -> None:
        draws = self.generator("privacy", turn.round, turn.client, turn.config)
        expected = min(turn.local["batch_size"], rows)
        trained = {name: p for name, p in turn.model.named_parameters() if p.requires_grad}

        def noised(batch: "Batch") -> tuple[Sums, "Metrics"]:
            import torch

            turn.steps += 1
            sums, metrics = clipped_sums(turn.task, turn.model, batch, self.clip_norm, turn.local["accumulate"])
            for total in sums.values():
                noise = torch.as_tensor(draws.standard_normal(tuple(total.shape), np.float32), device=total.device)
                total.add_(noise, alpha=self.noise_multiplier * self.clip_norm).div_(expected)
            return sums, metrics

        def step(batch: "Batch", correct: Callable[[], None] = lambda: None, optimizer: Any = None) -> "Metrics":
            sums, metrics = noised(batch)
            for name, gradient in sums.items():
                trained[name].grad = gradient
            correct()
            (optimizer or turn.optimizer).step()
            return metrics

        def gradient(batch: "Batch") -> "Tensor":
            return turn.flat(noised(batch)[0])

        turn.step, turn.gradient = step, gradient  # type: ignore[method-assign]

    def epsilon(self, turns: int, rows: int, batch_size: int, steps: int) -> float:
        return epsilon("poisson", min(batch_size, rows), rows, self.noise_multiplier, turns * steps, self.delta)


def clipped_sums(
    task: "Task", model: "nn.Module", batch: "Batch", norm: float, pieces: int = 1
) -> tuple[Sums, "Metrics"]:
    """The sums over a batch [B, ...] of its examples' gradients, each shortened to the norm, by the names of tensors.

    And the metrics, none where B is 0. The gradients of each of so many `pieces` lie in memory together.
    """
    import torch
    from torch.func import grad, vmap

    from fl_bench.metrics import Mean, merge
    from fl_bench.tasks.examples import of_one

    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    each = vmap(grad(of_one(task, model), has_aux=True), in_dims=(None, 0), randomness="different")
    sums, found = {name: torch.zeros_like(p) for name, p in trained.items()}, []
    count = len(next(iter(batch.values())))
    for part in np.array_split(np.arange(count), min(pieces, count)) if count else ():
        gradients, totals = each(trained, {name: column[part] for name, column in batch.items()})
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0)
        scale = norm / squares.sqrt().clamp(min=norm)  # [B], 1 where the gradient is short enough
        for name, gradient in gradients.items():
            sums[name] += torch.tensordot(scale, gradient, 1)
        found.append({name: Mean(total.sum(), len(part)) for name, total in totals.items()})
    return sums, merge(found)


def _difference(task: "Task", model: "nn.Module", batch: "Batch") -> float:
    """How far the mean of the examples' gradients is from the gradient of their batch, as a share of that."""
    import torch

    model.eval()  # without dropout
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss, _ = task.objective(model, batch)
    whole = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    sums, _ = clipped_sums(task, model, batch, torch.finfo().max)
    count = len(next(iter(batch.values())))
    apart = sum(float((sums[name] / count - part).square().sum()) for name, part in zip(trained, whole, strict=True))
    length = sum(float(part.square().sum()) for part in whole)
    return math.sqrt(apart / max(length, 1e-30))
