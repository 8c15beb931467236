"""What each client has told so far: kept in checkpoints."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_bench.privacy.base import Noise


@dataclass
class Spent:
    """How many turns each client has sent something of, and the epsilon of these; `largest` is that of all clients.

    `rows` and `steps` are those of a turn of each client, int64 [num_clients].
    """

    noise: Noise
    rows: NDArray[np.int64]
    steps: NDArray[np.int64]
    batch_size: int
    turns: NDArray[np.int64] = field(init=False)
    largest: float = 0.0

    def __post_init__(self) -> None:
        self.turns = np.zeros(len(self.rows), np.int64)

    def add(self, clients: Iterable[int]) -> None:
        """A turn of each of these clients."""
        for client in clients:
            self.turns[client] += 1
            self.largest = max(self.largest, self.epsilon(client))

    def epsilon(self, client: int, turns: int | None = None) -> float:
        """What a client has told, or would have after so many turns."""
        turns = int(self.turns[client]) if turns is None else turns
        if not turns:
            return 0.0
        return self.noise.epsilon(turns, int(self.rows[client]), self.batch_size, int(self.steps[client]))

    def worst(self, turns: int) -> tuple[float, int]:
        """The largest epsilon that a client would have after so many turns, and that client.

        Of those who take as many steps it is the one with the fewest rows, whose batches have the largest part of them.
        """
        training = np.flatnonzero(self.rows)
        by_rows = training[np.argsort(-self.rows[training], kind="stable")].tolist()
        fewest = {int(self.steps[client]): client for client in by_rows}
        return max((self.epsilon(client, turns), client) for client in fewest.values())

    def __getstate__(self) -> dict[str, Any]:
        return {"turns": self.turns, "largest": self.largest}
