"""What objects know, as JSON and tensors: nothing in it can run, and no class is named in it.

An object can be taken and put back whose attributes are plain data, NumPy arrays, tensors, Flower's arrays, or again
such objects: all of Flower's strategies for models. As for `copy`, an object says by `__getstate__` what is to be kept,
and by `__setstate__` how it takes that back; those of torch have `state_dict`; others are all their attributes.
Functions and classes are no state, named tuples come back as plain ones, and two names of one array as two arrays. An
object must be there again when it is put back, so none may stand in a list or a dict: that is refused when it is taken.
"""

from collections.abc import Callable
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fl_bench.errors import RunError
from fl_bench.storage.buffers import Buffer, contents

CONSTANT = (FunctionType, MethodType, BuiltinFunctionType, partial, type)
SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}

Tensors = dict[str, Tensor]


def take(value: Any, tensors: Tensors, where: str, held: bool = False) -> Any:
    """The value for JSON; its arrays go into `tensors`, named by where they were found.

    `held` says that it is an item of something, and so has no place of its own to be put back to.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufc":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: _add(tensors, where, torch.from_numpy(np.array(value, order="C")))}
    if type(value) is Tensor:
        return {"tensor": _add(tensors, where, value.detach().cpu().clone().contiguous())}
    if isinstance(value, Array):
        return {"flower": _add(tensors, where, torch.from_numpy(np.array(contents(value), order="C")))}
    if type(value) is bytes:
        return {"bytes": _add(tensors, where, torch.from_numpy(np.frombuffer(value, np.uint8).copy()))}
    if isinstance(value, ArrayRecord):
        return {"record": {name: take(array, tensors, f"{where}.{name}") for name, array in value.items()}}
    for kind, make in SEQUENCES.items():
        if type(value) is make or (kind == "tuple" and isinstance(value, tuple)):
            return {kind: [take(item, tensors, f"{where}.{index}", True) for index, item in enumerate(value)]}
    if type(value) is dict or (isinstance(value, dict) and not held):
        items = ((key, take(item, tensors, f"{where}.{key}", True)) for key, item in value.items())
        return {"dict": [[take(key, tensors, f"{where}.key", True), item] for key, item in items]}
    if isinstance(value, Enum) and not held:
        return {"enum": value.name}
    if hasattr(value, "load_state_dict") and not held:
        return {"state_dict": take(dict(value.state_dict()), tensors, where)}
    state = None if held or isinstance(value, np.generic | np.ndarray | Tensor) else value.__getstate__()
    if state is None and not held and hasattr(value, "__dict__"):  # it has no attributes yet
        state = {}
    if not isinstance(state, dict):
        raise RunError(
            f"checkpoint: {where} is a {type(value).__name__}, which cannot be saved {'there' if held else ''}; "
            "give its owner __getstate__ and __setstate__, or set checkpoint.every=0"
        )
    kept = {name: item for name, item in state.items() if not isinstance(item, CONSTANT)}
    return {"object": {name: take(item, tensors, f"{where}.{name}") for name, item in kept.items()}}


def put_back(taken: Any, tensors: Tensors, current: Any = None, where: str = "") -> Any:
    """The value that was taken; objects are changed in place, so `current` is what stands there now."""
    if not isinstance(taken, dict):
        return taken
    ((kind, content),) = taken.items()
    if kind in SEQUENCES:
        return SEQUENCES[kind]([put_back(item, tensors) for item in content])
    if kind == "dict":
        items = {put_back(key, tensors): put_back(item, tensors) for key, item in content}
        if type(current) is dict or not isinstance(current, dict):
            return items
        current.clear()  # such as a defaultdict, which stays one
        current.update(items)
        return current
    if kind == "record":
        return ArrayRecord({name: put_back(array, tensors) for name, array in content.items()})
    if kind in ("object", "enum", "state_dict") and current is None:
        raise RunError(f"checkpoint: {where} was an object, and is none before the first round: it cannot be put back")
    if kind == "enum":
        return type(current)[content]
    if kind == "state_dict":
        current.load_state_dict(put_back(content, tensors))
        return current
    if kind == "object":
        attributes = getattr(current, "__dict__", {})
        state = {
            name: put_back(item, tensors, attributes.get(name), f"{where}.{name}") for name, item in content.items()
        }
        if hasattr(current, "__setstate__"):
            current.__setstate__(state)
        else:
            current.__dict__.update(state)
        return current
    tensor = tensors[content]
    if kind == "tensor":
        return tensor
    array = tensor.numpy()
    return {"array": array, "scalar": array[()], "flower": Buffer(array), "bytes": array.tobytes()}[kind]


def _add(tensors: Tensors, name: str, tensor: Tensor) -> str:
    while name in tensors:  # the keys 1 and "1" of a dict
        name += "'"
    tensors[name] = tensor
    return name
