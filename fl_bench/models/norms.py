"""What `model.norm` says: other layers in the place of a model's BatchNorms."""

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def _grouped(channels: int) -> nn.Module:
    return nn.GroupNorm(next(groups for groups in (32, 16, 8, 4, 2, 1) if channels % groups == 0), channels)


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": _grouped,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "none": lambda channels: nn.Identity(),
}


def replace_norms(model: nn.Module, norm: str) -> int:
    """Put a layer of `LAYERS` into the place of each BatchNorm but with `batch`, and say how many there are.

    A transformer's LayerNorms stay.
    """
    places = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, _BatchNorm)
    ]
    for module, name, child in places if norm != "batch" else ():
        setattr(module, name, LAYERS[norm](child.num_features))
    return len(places)
