"""MOON: Li et al. 2021, "Model-Contrastive Federated Learning", arXiv:2103.16257, equation 3 and algorithm 1.

What the model sees in a batch, its representation, is pulled towards what the global model sees in it, and pushed away
from what this client's model of last time saw, by a contrastive term beside the loss.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_bench.build import not_negative
from fl_bench.errors import ConfigError
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.layers import layers
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Batch, Classifier, Metrics, Task

PREVIOUS = "previous"


class Contrastive(LocalAlgorithm):
    """The representation is what enters the model's last layer (the paper puts a projection head before it).

    With a single layer that is the data itself, which nothing can pull: then this is FedAvg.
    """

    protected_by = ("local",)

    def __init__(self, mu: float, temperature: float) -> None:
        not_negative(mu=mu)
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be a positive number")
        self.mu, self.temperature = mu, temperature

    def suit(self, task: Task) -> None:
        if not isinstance(task, Classifier):
            raise ConfigError(f"strategy: MOON is for classifiers, and task {type(task).__name__} is none")

    def begin(self, turn: Turn) -> None:
        turn.work.previous = turn.state.get(PREVIOUS, turn.start)
        turn.work.last_layer = turn.model.get_submodule(list(layers(turn.model))[-1])

    def training_step(self, turn: Turn, batch: Batch) -> Metrics:
        glob, previous = (self._representation(turn, vector, batch) for vector in (turn.start, turn.work.previous))

        def contrast(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].requires_grad:
                term = self.mu * contrastive_gradient(inputs[0], glob, previous, self.temperature)
                inputs[0].register_hook(lambda gradient: gradient + term)

        # In the task's own backward pass: neither its loss nor its step needs to know.
        with turn.work.last_layer.register_forward_pre_hook(contrast):
            return super().training_step(turn, batch)

    def finish(self, turn: Turn) -> None:
        turn.state[PREVIOUS] = turn.parameters.clone()

    @torch.no_grad()
    def _representation(self, turn: Turn, vector: Tensor, batch: Batch) -> Tensor:
        """What enters the last layer of the model with these parameters [P], in evaluation mode: [B, ...]."""
        seen: list[Tensor] = []
        here = turn.parameters.clone()
        turn.parameters.copy_(vector)
        turn.model.eval()
        with turn.work.last_layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
            turn.task.score(turn.model, batch)
        turn.model.train()
        turn.parameters.copy_(here)
        return seen[0]


def contrastive_loss(z: Tensor, glob: Tensor, previous: Tensor, temperature: float) -> Tensor:
    """-log(e^(cos(z, glob) / t) / (e^(cos(z, glob) / t) + e^(cos(z, previous) / t))), the mean over a batch."""
    towards, away = (functional.cosine_similarity(z.flatten(1), other.flatten(1)) for other in (glob, previous))
    return functional.softplus((away - towards) / temperature).mean()


def contrastive_gradient(z: Tensor, glob: Tensor, previous: Tensor, temperature: float) -> Tensor:
    """The gradient of `contrastive_loss` with respect to z."""
    z = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(contrastive_loss(z, glob, previous, temperature), z)
    return gradient
