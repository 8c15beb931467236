"""FedBN: Li et al. 2021, "Federated Learning on Non-IID Features via Local Batch Normalization", arXiv:2102.07623.

FedAvg of everything but the normalisation layers, whose parameters and statistics stay with the client, since they
describe how its own features are distributed. The paper has BatchNorm; here LayerNorm and GroupNorm count too.
"""

from torch import nn

from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.layers import layers

NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class LocalNormalisation(LocalAlgorithm):
    protected_by = ("example", "local")

    def private(self, model: nn.Module) -> set[str]:
        found = (keys for name, keys in layers(model).items() if isinstance(model.get_submodule(name), NORMALISATION))
        return set().union(*found)
