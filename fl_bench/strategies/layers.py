"""The layers of a model by name, and which of its tensors are statistics."""

from collections.abc import Sequence

from torch import nn

from fl_bench.errors import ConfigError


def layers(model: nn.Module) -> dict[str, set[str]]:
    """The layers of a model in their order: by name, the names of their own parameters and buffers."""
    found = {}
    for name, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        if parameters:
            keys = [*parameters, *dict(module.named_buffers(recurse=False))]
            found[name] = {f"{name}.{key}" if name else key for key in keys}
    return found


def last_layers(model: nn.Module, wanted: int | Sequence[str]) -> set[str]:
    """The names of the tensors of the last `wanted` layers, or of the layers and modules that `wanted` names."""
    known = layers(model)
    if isinstance(wanted, int):
        if wanted < 0:
            raise ConfigError(f"strategy.personal_layers={wanted}: must be 0 or more, or a list of names")
        chosen = list(known)[max(0, len(known) - wanted) :]
    else:
        chosen = []
        for start in wanted:
            inside = [name for name in known if f"{name}.".startswith(f"{start}.")]
            if not inside:
                raise ConfigError(f"strategy.personal_layers: {start} is no layer; the model has {', '.join(known)}")
            chosen += inside
    return set().union(*(known[name] for name in chosen))


def is_statistic(name: str) -> bool:
    """Whether a tensor is what BatchNorm has counted: a mean of such is right, an extrapolation may be impossible."""
    return name.endswith(("running_mean", "running_var"))
