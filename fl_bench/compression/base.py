"""What a codec is; by itself one that changes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, nan, prod

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
FLOAT_BYTES = 4


@dataclass
class Link:
    """What the codec may use at one end, for one vector of one message.

    Examples:
        >>> link = Link({"weight": (2, 3), "bias": (3,)}, lambda purpose: np.random.default_rng(0))
        >>> link.sizes.tolist(), link.size
        ([6, 3], 9)
    """

    shapes: Mapping[str, tuple[int, ...]]  # of the tensors that lie one after another in the vector [P]
    draw: Callable[[str], np.random.Generator]  # by purpose; at both ends the same numbers
    # What only a client that sends knows:
    memory: dict[str, NDArray] = field(default_factory=dict)  # its own; what is here at the end is kept
    received: Vector = field(default_factory=lambda: np.empty(0, np.float32))  # [P]: what it has started from
    loss: float = nan  # of its training

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many numbers each tensor has, but for empty ones."""
        return np.array([size for size in map(prod, self.shapes.values()) if size], np.int64)

    @property
    def size(self) -> int:
        """P, how many numbers the vector has."""
        return int(self.sizes.sum())


class Codec:
    """Numbers as they are, four bytes each. A subclass says what it does instead, and how far it may be off.

    One object serves all clients, one after another: what a client keeps belongs into `link.memory`, and random numbers
    come from `link.draw`. A yaml in `conf/compression/` names the class as `up`, one in `conf/compression/down/` by
    `_target_`.

    Must override:
        `lossless = False`, `encode`, `decode` and `num_bytes`, which agree: `len(encode(v, link)) == num_bytes(link)`,
        and `decode` returns a vector [P].

    May override:
        `suit`, `matters`, and the class attributes below.

    Examples:
        >>> link = Link({"weight": (2, 3), "bias": (3,)}, lambda purpose: np.random.default_rng(0))
        >>> vector = np.arange(9, dtype=np.float32)
        >>> data = Codec().encode(vector, link)
        >>> len(data) == Codec().num_bytes(link) == 36
        True
        >>> bool((Codec().decode(data, link) == vector).all())
        True
    """

    lossless = True
    random = False  # two encodings of the same vector may differ
    reads_loss = False  # whether what is sent follows from the loss of training too
    feedback = False  # what was not sent is kept by the client and added to its next update (Seide et al. 2014)

    def suit(self, down: "Codec") -> None:
        """Before a run: raise ConfigError where what comes down by this codec is of no use for the way up."""

    def matters(self, update: Vector, link: Link) -> bool:
        """Whether the client sends this update [P] at all; called once for each."""
        return True

    def encode(self, vector: Vector, link: Link) -> bytes:
        """A vector [P], P > 0, as the bytes that travel."""
        return vector.tobytes()

    def decode(self, data: bytes, link: Link) -> Vector:
        """The vector [P] that the receiver makes of them."""
        return np.frombuffer(data, np.float32)

    def num_bytes(self, link: Link) -> int:
        """How many bytes any vector becomes."""
        return FLOAT_BYTES * link.size


def part(fraction: float, size: int) -> int:
    """How many of `size` numbers a fraction is: rounded up, so one at least.

    Examples:
        >>> part(0.1, 30), part(0.01, 5)
        (3, 1)
    """
    return max(1, ceil(fraction * size - 1e-9))  # 0.1 * 30 is 3.0000000000000004


def check_fraction(fraction: float) -> None:
    """Raise ValueError where this is no fraction: more than 0 and at most 1."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: must be more than 0 and at most 1")
