"""The way from the server to the clients and back: what it costs, and what arrives.

A payload is the model [P] and the algorithm's extras, [P] each; each of these vectors is encoded by itself. The way up
carries a client's update, its payload minus what it has received. What BatchNorm has counted travels as it is: a
variance that is a little off can be negative.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.compression.base import FLOAT_BYTES, Codec, Link
from fl_bench.federation.parameters import Layout
from fl_bench.federation.update import LARGEST, Diverged, check_size
from fl_bench.storage.states import State
from fl_bench.strategies.layers import is_statistic

Vector = NDArray[np.float32]

MEMORY = "compression/"  # before the names of what a codec keeps in a client's state
WITHHELD_BYTES = 1  # to say that there is nothing


class Arrived(NamedTuple):
    """Arrays of any shape as they arrive, and the bytes that they take on their way."""

    arrays: Mapping[str, NDArray]
    num_bytes: int


class Channel:
    def __init__(self, seed: int, up: Codec, down: Codec, layout: Layout, extras: Sequence[str]) -> None:
        self.seed, self.up, self.down = seed, up, down
        self.vectors = ("model", *extras)
        self.shapes = {k: v for k, v in layout.shapes.items() if not is_statistic(k) and k not in layout.served}
        self.coded = layout.where(self.shapes.__contains__)
        self.statistics = int(layout.where(lambda name: is_statistic(name) and name not in layout.served).sum())

    @property
    def bytes_down(self) -> int:
        """What a client receives for a turn of training."""
        return self._num_bytes(self.down)

    @property
    def bytes_up(self) -> int:
        """What it sends after it, unless it withholds its update."""
        return self._num_bytes(self.up)

    def arrives_down(self, payload: Vector, round: int) -> Vector:
        """What every client makes of the server's payload."""
        if self.down.lossless:
            return payload
        vectors = zip(self.vectors, payload.reshape(len(self.vectors), -1), strict=True)
        return np.concatenate([self._sent(self.down, v, self._link("down", name, round)) for name, v in vectors])

    def arrives_up(
        self, client: int, round: int, payload: Vector, received: Vector, trained: Vector, state: State, loss: float
    ) -> Vector | None:
        """What the server makes of a client's update, added to its own payload; None where the client withholds it.

        `state` is the client's: what a codec keeps is put there. Raises Diverged as training does.
        """
        if type(self.up) is Codec and self.down.lossless:  # most runs: nothing to do
            return trained
        check_size(trained, received)  # a codec might hide it, or the client withhold it
        shape = len(self.vectors), -1
        arrived = []
        for name, start, end in zip(self.vectors, received.reshape(shape), trained.reshape(shape), strict=True):
            prefix = f"{MEMORY}{name}/"
            memory = {key.removeprefix(prefix): t.numpy() for key, t in state.items() if key.startswith(prefix)}
            link = self._link("up", name, round, client)
            link.memory, link.received, link.loss = memory, start, loss
            update = end - start
            matters = name != "model" or not len(update) or self.up.matters(update, link)
            if matters:
                arrived.append(self._sent(self.up, update, link))
            state |= {prefix + key: torch.from_numpy(np.array(value)) for key, value in link.memory.items()}
            if not matters:
                return None
        if self.up.lossless and self.down.lossless:
            return trained
        decoded = np.concatenate(arrived)
        if not np.abs(decoded).max(initial=0) < LARGEST:
            raise Diverged(f"compression has made an update of {np.abs(decoded).max()}")
        return payload + decoded

    def beside(
        self, codec: Codec, client: int, round: int, arrays: Mapping[str, NDArray], exchange: int | str
    ) -> Arrived:
        """Arrays beside the model on their way by `codec`; it compresses those of float32, and keeps nothing of it."""
        num_bytes = sum(array.nbytes for array in arrays.values())
        if codec.lossless:
            return Arrived(arrays, num_bytes)
        arrived = dict(arrays)
        for name, array in arrays.items():
            if _coded(codec, array):
                way = "up" if codec is self.up else "down"
                link = self._link(way, f"beside {exchange} {name}", round, client, {name: array.shape})
                data = codec.encode(array.ravel(), link)
                arrived[name] = codec.decode(data, link).reshape(array.shape)
                num_bytes += len(data) - array.nbytes
        return Arrived(arrived, num_bytes)

    def planned(self, codec: Codec, arrays: Mapping[str, NDArray]) -> int:
        """The bytes of arrays like these, beside the model."""
        return sum(
            codec.num_bytes(self._link("", "", 0, shapes={name: array.shape})) if _coded(codec, array) else array.nbytes
            for name, array in arrays.items()
        )

    def _sent(self, codec: Codec, vector: Vector, link: Link) -> Vector:
        """A vector as it arrives at the other end."""
        if codec.lossless or not link.size:
            return vector
        arrived, numbers = vector.copy(), vector[self.coded]
        if codec.feedback:
            numbers = numbers + link.memory.get("error", np.float32(0))
        arrived[self.coded] = codec.decode(codec.encode(numbers, link), link)
        if codec.feedback:
            link.memory["error"] = numbers - arrived[self.coded]
        return arrived

    def _num_bytes(self, codec: Codec) -> int:
        link = self._link("", "", 0)
        numbers = codec.num_bytes(link) if link.size else 0
        return len(self.vectors) * (numbers + FLOAT_BYTES * self.statistics)

    def _link(
        self, way: str, vector: str, round: int, client: int = 0, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> Link:
        def draw(purpose: str) -> np.random.Generator:
            return rng.generator(self.seed, f"{way} {vector} {purpose}", round, client)

        return Link(self.shapes if shapes is None else shapes, draw)


def _coded(codec: Codec, array: NDArray) -> bool:
    """Whether a codec compresses an array beside the model."""
    return not codec.lossless and array.dtype == np.float32 and array.size > 0


def memory_of(state: Mapping[str, torch.Tensor]) -> State:
    """What its codec keeps of the client's state."""
    return {name: tensor for name, tensor in state.items() if name.startswith(MEMORY)}


def without_memory(state: Mapping[str, torch.Tensor]) -> State:
    """The client's state but for what its codec keeps."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(MEMORY)}
