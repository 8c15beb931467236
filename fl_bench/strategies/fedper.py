"""FedPer: Arivazhagan et al. 2019, "Federated Learning with Personalization Layers", arXiv:1912.00818, algorithm 1.

The base layers are federated by FedAvg; the last layers never leave the client, which trains both together.
"""

from torch import nn

from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.layers import last_layers


class Personal(LocalAlgorithm):
    """`personal_layers`: how many of the last layers stay with the client, or their names."""

    protected_by = ("example", "local")

    def __init__(self, personal_layers: int | list[str]) -> None:
        self.personal_layers = personal_layers

    def private(self, model: nn.Module) -> set[str]:
        return last_layers(model, self.personal_layers)
