"""FLoRA: Wang et al. 2024, "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
Adaptations", arXiv:2409.05976.

A stack of the clients' adapters is the exact mean of their products. It is added to the weights, and the next adapters
begin anew: a client is sent the stacks of all rounds since its last turn, and adds them to weights of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.strategies.adapters import A, Adapting, Arrays, OfAdapters, components, pairs, stacked
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Task

WEIGHT = ".base_layer.weight"  # in the name of a target's, where its adapter has A


class FLoRA(OfAdapters):
    """The model is the weights of the targets.

    Stacks are kept as long as they are shorter than the weights, from the last one back; a client that lacks more is
    sent the weights.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.has: dict[int, int] = {}  # by client: the last round of whose stack its weights have
        self.stacks: dict[int, dict[str, NDArray]] = {}  # by round, rising
        self.dropped = 0  # the last round of which there is no stack any more

    def known(self, client: int) -> int:
        return self.has.get(client, 0)

    def sent(self, known: int) -> Arrays:
        if known < self.dropped:
            return self.model
        return {name: array for round, stack in self.stacks.items() if round > known for name, array in stack.items()}

    def combine(self, round: int, adapters: Mapping[int, Arrays], weights: NDArray[np.float64]) -> Arrays:
        self.has |= dict.fromkeys(adapters, round - 1)
        stack = stacked(list(adapters.values()), weights)
        self.stacks[round] = {f"{round}/{name}": values.astype(np.float32) for name, values in stack.items()}
        made = {name: torch.from_numpy(weight.copy()) for name, weight in self.model.items()}
        add({name: torch.from_numpy(array) for name, array in self.stacks[round].items()}, made)
        most = sum(weight.nbytes for weight in made.values())
        while sum(array.nbytes for stack in self.stacks.values() for array in stack.values()) >= most:
            self.dropped = min(self.stacks)
            del self.stacks[self.dropped]
        return {name: weight.numpy() for name, weight in made.items()}


def target(a: str) -> str:
    """The name of the weight that an adapter is for, from that of its A, which a round may stand before.

    Examples:
        >>> target("3/model.q_proj.lora_A.default.weight")
        'model.q_proj.base_layer.weight'
    """
    return a.rpartition("/")[2].partition(A)[0] + WEIGHT


def add(adapters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Add the products B A to the weights [out, in] of their targets."""
    for a, b in pairs(adapters).items():
        weights[target(a)].add_(adapters[b] @ adapters[a])


class Restarting(Adapting):
    """Trains adapters that begin anew in each turn, with a random A and B = 0, on weights that it keeps."""

    def model(self, task: Task, data: FederatedData) -> nn.Module:
        model = super().model(task, data)
        for name in pairs(task.shared(model)):
            layer = model.get_submodule(name.partition(A)[0]).base_layer
            if not isinstance(layer, nn.Linear):
                raise ConfigError(f"model.targets: FLoRA merges into linear layers, and {name} is for a {layer}")
        return model

    def shared(self, task: Task, model: nn.Module) -> list[str]:
        return [target(name) for name in pairs(task.shared(model))]

    @torch.no_grad()
    def begin(self, turn: Turn) -> None:
        weights = turn.split(turn.parameters)
        for name, weight in weights.items():
            weight.copy_(turn.beside.get(name, turn.state.get(name, weight)))
        add(turn.beside, weights)
        tensors = turn.model.state_dict()
        for a, b in pairs(tensors).items():
            nn.init.kaiming_uniform_(tensors[a], a=5**0.5)  # as peft begins
            components(a, tensors[a], self.rank_of(turn)).zero_()
            tensors[b].zero_()

    def finish(self, turn: Turn) -> None:
        """What it sends of B A is times the model's scaling: that is what is added to a weight."""
        turn.state |= turn.split(turn.parameters)
        tensors, rank = turn.model.state_dict(), self.rank_of(turn)
        for a, b in pairs(tensors).items():
            scaling: Any = turn.model.get_submodule(a.partition(A)[0]).scaling
            turn.sends[a] = scaling["default"] * components(a, tensors[a], 0, rank)
            turn.sends[b] = components(b, tensors[b], 0, rank)
