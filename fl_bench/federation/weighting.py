"""What the models of clients weigh in a mean, and what is known of it where nobody tells how many examples it has."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_bench.errors import ConfigError


@dataclass(frozen=True)
class Weighting:
    """Of clients that train on so many examples. Raises ConfigError where one has more than `max_examples`.

    Examples:
        >>> by_examples = Weighting(np.array([30, 0, 50]), uniform=False, max_examples=64, hidden=False)
        >>> by_examples.of(30), by_examples.all, by_examples.most
        (30, 80, 64)
        >>> uniform = Weighting(np.array([1, 0, 1]), uniform=True, max_examples=None, hidden=True)
        >>> uniform.of(30), uniform.all, uniform.most
        (1, 2, 1)
    """

    sizes: NDArray[np.int64]  # [num_clients]: examples; where they are hidden 1 stands for some
    uniform: bool  # each weighs the same
    max_examples: int | None  # of a client, as all may know; None: those of the largest
    hidden: bool  # whether only the clients' owners know the sizes

    def __post_init__(self) -> None:
        if self.max_examples is not None and (larger := np.flatnonzero(self.sizes > self.max_examples)).size:
            wish = f"client {larger[0]} trains on more; raise it for all, or let the client have fewer"
            raise ConfigError(f"max_examples={self.max_examples}: {wish}")

    def of(self, num_examples: int) -> int:
        """What the model of a client with so many examples weighs."""
        return 1 if self.uniform else num_examples

    @property
    def each(self) -> NDArray[np.int64]:
        """What each client weighs [num_clients], but where it is hidden."""
        return np.minimum(self.sizes, 1) if self.uniform else self.sizes

    @property
    def all(self) -> int | None:
        """What all clients weigh together; None where nobody knows it here."""
        return None if self.hidden and not self.uniform else int(self.each.sum())

    @property
    def most(self) -> int:
        """The most that a client may weigh."""
        stated = None if self.uniform else self.max_examples
        return stated or int(self.each.max(initial=0))
