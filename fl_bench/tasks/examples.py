"""A task's objective of one example, as a function that torch.func can map over examples and over models."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_bench.tasks.base import Batch, Task

CLOSE = 0.01  # how far gradients that are the same may be apart, of their length: a GPU multiplies with ten bits
OfOne = Callable[[Mapping[str, Tensor], Batch], tuple[Tensor, dict[str, Tensor]]]


class _Objective(nn.Module):
    """A task's objective with its model as a module, so that functional_call can put other numbers into it."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = self.task.objective(self.model, batch)
        return loss, {name: torch.as_tensor(mean.total, device=loss.device) for name, mean in metrics.items()}


def of_one(task: Task, model: nn.Module) -> OfOne:
    """From tensors of the model by name and the columns of one example, without B, to its loss and its metrics.

    What is not among the tensors is as the model has it.
    """
    objective = _Objective(task, model)

    def compute(tensors: Mapping[str, Tensor], example: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        batch = {name: column[None] for name, column in example.items()}
        named = {f"model.{name}": tensor for name, tensor in tensors.items()}
        found: tuple[Tensor, dict[str, Tensor]] = functional_call(objective, named, (batch,))
        return found

    return compute
