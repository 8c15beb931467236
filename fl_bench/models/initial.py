"""The model that a run begins from, where it was trained before: `model.init`."""

import hashlib
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path

import torch
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fl_bench.config.paths import MODEL
from fl_bench.errors import ConfigError
from fl_bench.models.opaque import CONTENT, Opaque
from fl_bench.storage import run_json


def begin(model: nn.Module, file: Path, node: DictConfig, private: Collection[str]) -> list[str]:
    """Let a model begin as the config's `node` model says, if `file`, the copy of `init`, is there: see `take`."""
    return take(model, file, f"model.init={node.init}", private, node.init_skip) if file.exists() else []


@torch.no_grad()
def take(
    model: nn.Module, file: Path, key: str, private: Collection[str], skip: Sequence[str] | None = None
) -> list[str]:
    """Give the model the values in a safetensors file, and return the names of the tensors that keep their own.

    These are the ones that a pattern of `skip`, which is `model.init_skip`, names, and of the `private` ones those that
    are not in the file. `key` is what errors begin with.

    Raises:
        ConfigError: where the file is damaged, has other tensors or shapes than the model, or values that are not
            finite.
    """
    try:
        found = load_file(file)
    except SafetensorError as error:
        raise ConfigError(f"{key}: is damaged: {error}") from error
    if isinstance(model, Opaque) and CONTENT in found:  # which may have any length
        model.content = torch.empty_like(found[CONTENT])
    own: dict[str, Tensor] = model.state_dict()
    names = [*own, *(name for name in found if name not in own)]
    for pattern in skip or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"model.init_skip: {pattern} is the name of no tensor; the model has {', '.join(own)}")
    left = [name for name in names if any(fnmatchcase(name, pattern) for pattern in skip or ())]
    left += [name for name in sorted(private) if name not in found and name not in left]
    wanted = [name for name in names if name not in left]
    if odd := [name for name in wanted if _kind(own.get(name)) != _kind(found.get(name))]:
        first = f"{odd[0]} is {_shape(found.get(odd[0]))} in the file and {_shape(own.get(odd[0]))} in the model"
        hint = "" if skip is None else "; model.init_skip=[PATTERN] lets tensors begin as the seed makes them"
        raise ConfigError(f"{key}: {len(odd)} of {len(wanted)} tensors do not fit: {first}{hint}")
    for name in wanted:
        if not torch.isfinite(found[name]).all():
            raise ConfigError(f"{key}: {name} has values that are not finite")
        own[name].copy_(found[name])
    return [name for name in left if name in own]


def other_classes(init: str, classes: Sequence[str]) -> tuple[str | None, str | None] | None:
    """The first class in which a run and the data differ: the run's, and the data's, whose `classes` are in order.

    None where they are the same, or `init`, which is `model.init`, is neither the folder nor the model of a run.
    """
    path = Path(init).expanduser()
    before = run_json.read(path.parent if path.name == MODEL else path).get("classes")
    return next((pair for pair in zip_longest(before or classes, classes) if pair[0] != pair[1]), None)


def sha256(file: Path) -> str:
    """The digest that `sha256sum` shows."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kind(tensor: Tensor | None) -> tuple[torch.Size, bool] | None:
    """What two tensors must have alike."""
    return None if tensor is None else (tensor.shape, tensor.is_floating_point())


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
