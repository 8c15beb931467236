"""No federation: every client trains a model of its own, and nothing travels.

The baseline that a personalised method must beat. All clients begin with the same model.
"""

from torch import nn

from fl_bench.strategies.base import LocalAlgorithm


class Alone(LocalAlgorithm):
    def private(self, model: nn.Module) -> set[str]:
        return set(model.state_dict())
