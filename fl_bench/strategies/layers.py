"""The layers of a model by name, and which of its tensors are statistics."""

from collections.abc import Sequence

from torch import nn

from fl_bench.errors import ConfigError


def layers(model: nn.Module) -> dict[str, set[str]]:
    """The layers of a model in their order: by name, the names of their own parameters and buffers.

    A layer is a module with parameters of its own.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> {name: sorted(tensors) for name, tensors in layers(model).items()}
        {'0': ['0.bias', '0.weight'], '2': ['2.bias', '2.weight']}
    """
    found = {}
    for name, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        if parameters:
            keys = [*parameters, *dict(module.named_buffers(recurse=False))]
            found[name] = {f"{name}.{key}" if name else key for key in keys}
    return found


def last_layers(model: nn.Module, wanted: int | Sequence[str]) -> set[str]:
    """The names of the tensors of the last `wanted` layers, or of the layers and modules that `wanted` names.

    Raises:
        ConfigError: where `wanted` is negative, or names what the model does not have.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> sorted(last_layers(model, 1))
        ['2.bias', '2.weight']
        >>> sorted(last_layers(model, ["0"]))
        ['0.bias', '0.weight']
    """
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
    """Whether a tensor is what BatchNorm has counted: a mean of such is right, an extrapolation may be impossible.

    Examples:
        >>> is_statistic("1.running_var"), is_statistic("1.weight")
        (True, False)
    """
    return name.endswith(("running_mean", "running_var"))
