"""What objects know, as JSON and tensors: nothing in it can run, and no class is named in it.

Any object can be taken and put back whose attributes are plain data, NumPy arrays, tensors, Flower's arrays, or again
such objects; Flower's strategies all are. As for `copy`, an object says by `__getstate__` what is to be kept, and by
`__setstate__` how it takes that back; without them it is all its attributes. Functions and classes are no state, and
named tuples come back as plain ones.
"""

from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fl_bench.errors import RunError
from fl_bench.federation.parameters import Buffer, contents

CONSTANT = (FunctionType, MethodType, BuiltinFunctionType, partial, type)
SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"list": list, "tuple": tuple, "set": set}

Tensors = dict[str, Tensor]


def take(value: Any, tensors: Tensors, where: str) -> Any:
    """The value for JSON; its arrays go into `tensors`, named by where they were found."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: _add(tensors, where, torch.from_numpy(np.array(value)))}
    if isinstance(value, Tensor):
        return {"tensor": _add(tensors, where, value.detach().cpu().clone())}
    if isinstance(value, Array):
        return {"flower": _add(tensors, where, torch.from_numpy(np.array(contents(value))))}
    if isinstance(value, ArrayRecord):
        return {"record": {name: take(array, tensors, f"{where}.{name}") for name, array in value.items()}}
    for kind, make in SEQUENCES.items():
        if isinstance(value, make):  # type: ignore[arg-type]
            return {kind: [take(item, tensors, f"{where}.{index}") for index, item in enumerate(value)]}
    if isinstance(value, dict):
        items = ((key, take(item, tensors, f"{where}.{key}")) for key, item in value.items())
        return {"dict": [[take(key, tensors, f"{where}.key"), item] for key, item in items]}
    state = value.__getstate__()
    if state is None and hasattr(value, "__dict__"):  # it has no attributes yet
        state = {}
    if not isinstance(state, dict):
        raise RunError(
            f"checkpoint: {where} is a {type(value).__name__}, which cannot be saved; "
            "give its owner a __getstate__, or set checkpoint.every=0"
        )
    kept = {name: item for name, item in state.items() if not isinstance(item, CONSTANT)}
    return {"object": {name: take(item, tensors, f"{where}.{name}") for name, item in kept.items()}}


def put_back(taken: Any, tensors: Tensors, current: Any = None) -> Any:
    """The value that was taken; objects are changed in place, so `current` is what stands there now."""
    if not isinstance(taken, dict):
        return taken
    ((kind, content),) = taken.items()
    if kind in SEQUENCES:
        return SEQUENCES[kind]([put_back(item, tensors) for item in content])
    if kind == "dict":
        return {put_back(key, tensors): put_back(item, tensors) for key, item in content}
    if kind == "record":
        return ArrayRecord({name: put_back(array, tensors) for name, array in content.items()})
    if kind == "object":
        attributes = getattr(current, "__dict__", {})
        state = {name: put_back(item, tensors, attributes.get(name)) for name, item in content.items()}
        if hasattr(current, "__setstate__"):
            current.__setstate__(state)
        else:
            current.__dict__.update(state)
        return current
    tensor = tensors[content]
    if kind == "tensor":
        return tensor
    array = tensor.numpy()
    return {"array": array, "scalar": array[()], "flower": Buffer(array)}[kind]


def _add(tensors: Tensors, name: str, tensor: Tensor) -> str:
    while name in tensors:  # the keys 1 and "1" of a dict
        name += "'"
    tensors[name] = tensor
    return name
