"""A model of two layers with adapters, which a run trains in a moment."""

from torch import Tensor, nn

from fl_bench.data.arrays import FederatedData
from fl_bench.tasks.mnist import Mnist


class Adapted(nn.Module):
    """A linear layer with an adapter, its tensors named as peft's."""

    def __init__(self, size: int, out: int, rank: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(size, out).requires_grad_(False)
        a, b = nn.Linear(size, rank, bias=False), nn.Linear(rank, out, bias=False)
        nn.init.zeros_(b.weight)
        self.lora_A, self.lora_B = nn.ModuleDict({"default": a}), nn.ModuleDict({"default": b})
        self.scaling = {"default": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling["default"] * added  # type: ignore[no-any-return]


class Digits(Mnist):
    """Digits by a net [784, 12, 10] whose layers are as they begin but for adapters of rank 4."""

    def model(self, data: FederatedData) -> nn.Module:
        return nn.Sequential(nn.Flatten(), Adapted(784, 12, 4), nn.ReLU(), Adapted(12, 10, 4))

    def shared(self, model: nn.Module) -> list[str]:
        return [name for name in model.state_dict() if "lora" in name]
