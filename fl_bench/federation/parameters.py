"""What travels, as one flat vector: resetting, subtracting and summing models are single passes over memory."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TypeVar

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_bench.errors import ConfigError
from fl_bench.models.opaque import Opaque
from fl_bench.storage.buffers import contents, to_record
from fl_bench.strategies.layers import is_statistic

Vector = TypeVar("Vector", NDArray[np.float32], Tensor)


@dataclass(frozen=True)
class Layout:
    """The names and shapes of the tensors that lie one after another in a flat vector [P]."""

    shapes: Mapping[str, tuple[int, ...]]
    served: Set[str] = frozenset()  # the names of those that the server half keeps to itself: clients have 0 there

    @property
    def size(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())

    def split(self, vector: Vector) -> dict[str, Vector]:
        """Views of a vector [..., P] by tensor name."""
        views, start = {}, 0
        leading: tuple[int, ...] = tuple(vector.shape[:-1])
        for name, shape in self.shapes.items():
            views[name] = vector[..., start : start + prod(shape)].reshape(leading + shape)
            start += prod(shape)
        return views

    def where(self, holds: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Which numbers of a flat vector [P] are of tensors whose names it holds for."""
        parts = [np.full(prod(shape), holds(name)) for name, shape in self.shapes.items()]
        return np.concatenate([np.zeros(0, bool), *parts])

    @cached_property
    def moves(self) -> NDArray[np.bool_]:
        """Which numbers of a flat vector [P] make an update: all but what BatchNorm has counted."""
        return ~self.where(is_statistic)

    def update(self, end: NDArray[np.float32], start: NDArray[np.float32]) -> NDArray[np.float64]:
        """The update [N] that leads from one flat vector [P] to another."""
        return np.subtract(end[self.moves], start[self.moves], dtype=np.float64)

    def updated(
        self, end: NDArray[np.float32], start: NDArray[np.float32], update: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """`end` [P], with another update [N] from `start`."""
        updated = end.copy()
        with np.errstate(over="ignore"):  # whoever looks at its size finds that
            updated[self.moves] = start[self.moves] + update
        return updated

    def with_extras(self, names: Sequence[str]) -> "Layout":
        """This layout, followed by one like it for each of `names`."""
        extras = {f"{extra}/{name}": shape for extra in names for name, shape in self.shapes.items()}
        return replace(self, shapes={**self.shapes, **extras})

    def model_in(self, payload: Vector) -> Vector:
        """The model [P] of a payload, which extras may follow."""
        return payload[: self.size]

    def fits(self, payload: NDArray) -> bool:
        """Whether this can be what travels."""
        return payload.dtype == np.float32 and payload.size == self.size

    def unplanned(self, payload: NDArray) -> int:
        """The bytes of a payload beside those that are known before a run."""
        return 0

    def to_record(self, vector: NDArray[np.float32]) -> ArrayRecord:
        """Views of the vector, which must not change while the record is in use; none of a vector without numbers."""
        return to_record(self.split(vector) if vector.size else {})

    def from_record(self, record: ArrayRecord) -> NDArray[np.float32]:
        """The vector [P] as float32, or [0] of an empty record; some of Flower's strategies return float64.

        What is served may be left out.
        """
        absent = {name: np.zeros(prod(self.shapes[name]), np.float32) for name in self.served - record.keys()}
        names = self.shapes if record else ()  # all may stay at the clients, or lie beside
        parts = [absent[name] if name in absent else contents(record[name]).ravel() for name in names] or [np.empty(0)]
        return np.concatenate(parts, dtype=np.float32, casting="same_kind")


class Bytes(Layout):
    """What travels of an opaque model: its content, uint8 [any length], where others have a vector."""

    NAME = "0"  # under which Flower's strategies look for it

    def model_in(self, payload: Vector) -> Vector:
        return payload

    def fits(self, payload: NDArray) -> bool:
        return payload.dtype == np.uint8

    def unplanned(self, payload: NDArray) -> int:
        return payload.nbytes

    def to_record(self, vector: NDArray) -> ArrayRecord:
        return to_record({self.NAME: vector})

    def from_record(self, record: ArrayRecord) -> NDArray:
        return contents(record[self.NAME]).copy()


class FlatModel:
    """A model whose shared tensors are views of one vector [P], so that writing the vector writes the model."""

    def __init__(
        self, model: nn.Module, shared: list[str], device: torch.device | str, served: Set[str] = frozenset()
    ) -> None:
        self.model = model.to(device)
        tensors: dict[str, Tensor] = {}
        for name in shared:
            owner, _, attribute = name.rpartition(".")
            tensor = getattr(model.get_submodule(owner), attribute)
            if tensor.dtype is not torch.float32:
                raise ConfigError(f"task: {name} is {tensor.dtype}; what clients share must be float32")
            if not any(tensor is other for other in tensors.values()):  # tied weights travel once
                tensors[name] = tensor
        self.layout = Layout({name: tuple(t.shape) for name, t in tensors.items()}, served & tensors.keys())
        self.vector = torch.empty(self.layout.size, device=device)
        for name, view in self.layout.split(self.vector).items():
            view.copy_(tensors[name].detach())
            tensors[name].data = view
        # What does not travel but may change in training starts afresh; what a client keeps of it is put back after.
        changing = [*model.buffers(), *(p for p in model.parameters() if p.requires_grad)]
        ours = {tensor.data_ptr() for tensor in tensors.values()}
        self._rest = [(t, t.detach().clone()) for t in changing if t.data_ptr() not in ours]

    def copy(self) -> list[Tensor]:
        """The model as it is now, for `put_back`."""
        return [tensor.detach().clone() for tensor in (self.vector, *(tensor for tensor, _ in self._rest))]

    @torch.no_grad()
    def put_back(self, copy: list[Tensor]) -> None:
        for tensor, before in zip((self.vector, *(tensor for tensor, _ in self._rest)), copy, strict=True):
            tensor.copy_(before)

    @torch.no_grad()
    def reset(self, vector: Tensor) -> None:
        """Become the server's model `vector` [P], as if nothing had been trained here before."""
        self.vector.copy_(vector)
        for tensor, initial in self._rest:
            tensor.copy_(initial)


class OpaqueModel:
    """The same as FlatModel is, of a model whose content is what travels."""

    def __init__(self, model: Opaque) -> None:
        self.model, self.layout = model, Bytes({})

    @property
    def vector(self) -> Tensor:
        return self.model.content

    def copy(self) -> list[Tensor]:
        return [self.model.content.clone()]

    def put_back(self, copy: list[Tensor]) -> None:
        (self.model.content,) = copy

    def reset(self, vector: Tensor) -> None:
        self.put_back([vector.clone()])


def flat(
    model: nn.Module, shared: list[str], device: torch.device | str, served: Set[str] = frozenset()
) -> FlatModel | OpaqueModel:
    """A model and what travels of it: these tensors but for those that are `served`, or its content."""
    return OpaqueModel(model) if isinstance(model, Opaque) else FlatModel(model, shared, device, served)
