"""When clients answer: the arithmetic of the virtual clock."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.errors import RunError
from fl_bench.network import devices


class Arrival(NamedTuple):
    """What becomes of asking a client."""

    comes: bool
    at: float  # when the server has the answer, or knows that there will be none; virtual seconds
    seconds: float  # from being asked to the answer, whether or not that is in time; inf: never


class Network:
    """The clients' devices and connections, which fail by chance, from the seed.

    An exchange with the server takes bytes_down / bytes_per_second_down + steps * seconds_per_step + bytes_up /
    bytes_per_second_up, and a turn all of its exchanges. Who drops is noticed when it would have answered, or with a
    deadline, at the deadline.
    """

    def __init__(
        self,
        dropout: float,
        deadline_s: float | None,
        over_select: float,
        seconds_per_step: float,
        bytes_per_second_up: float,
        bytes_per_second_down: float,
        spread: float,
        traces: str | None,
        repeat: bool,
        seed: int,
        steps: NDArray[np.int64],  # of each client's turn [num_clients], or of its exchanges [E, num_clients]
        bytes_down: int | NDArray[np.int64],  # likewise, or the same of all
        bytes_up: int | NDArray[np.int64],
    ) -> None:
        limits = [
            ("dropout", dropout, 0 <= dropout <= 1, "must be from 0 to 1"),
            ("deadline_s", deadline_s, deadline_s is None or deadline_s > 0, "must be a positive number, or null"),
            ("over_select", over_select, 1 <= over_select < np.inf, "must be a number from 1"),
            ("seconds_per_step", seconds_per_step, 0 <= seconds_per_step < np.inf, "must be a number from 0"),
            ("bytes_per_second_up", bytes_per_second_up, bytes_per_second_up > 0, "must be a positive number"),
            ("bytes_per_second_down", bytes_per_second_down, bytes_per_second_down > 0, "must be a positive number"),
            ("spread", spread, 0 <= spread < np.inf, "must be a number from 0"),
            ("repeat", repeat, traces is not None or not repeat, "there are no network.traces to repeat"),
        ]
        for name, value, holds, wish in limits:
            if not holds:
                raise ValueError(f"{name}={value}: {wish}")
        each = np.atleast_2d(steps)
        self.dropout, self.over_select, self.seed = dropout, over_select, seed
        self.steps: NDArray[np.int64] = each.sum(axis=0)
        self.deadline = np.inf if deadline_s is None else deadline_s
        self.traces = traces
        if traces is not None:
            self.devices = devices.read(Path(traces).expanduser(), len(self.steps), repeat)
        else:
            speeds = (seconds_per_step, bytes_per_second_up, bytes_per_second_down)
            self.devices = devices.drawn(rng.generator(seed, "devices"), len(self.steps), speeds, spread)
        table = self.devices
        down, up = (np.broadcast_to(count, each.shape)[:, table.client] for count in (bytes_down, bytes_up))
        self._useful = self.steps[table.client] > 0  # [R]: the rows of clients with samples
        self._exchanges = (  # [E, R]: of each row of the devices' table
            down / table.bytes_per_second_down
            + each[:, table.client] * table.seconds_per_step
            + up / table.bytes_per_second_up
        )
        self._seconds: NDArray[np.float64] = self._exchanges.sum(axis=0)

    @property
    def expected_seconds(self) -> NDArray[np.float64]:
        """How long a turn of each client takes [num_clients], in its first row of a trace."""
        return self._seconds[np.searchsorted(self.devices.client, np.arange(len(self.steps)))]

    def in_step(self, clients: Sequence[int], at: float) -> float:
        """How long the exchanges of a round take where each waits for the slowest of these available clients; 0 where
        there is one, which is as long as the longest turn.
        """
        if len(self._exchanges) == 1:
            return 0.0
        rows = [row for client in clients if (row := self.devices.row(client, at)) is not None]
        return float(self._exchanges[:, rows].max(axis=1, initial=0).sum())

    def reachable(self, round: int, at: float) -> float:
        """When a client with samples can be reached, from `at` on; raises RunError where none ever can."""
        while not self.steps[self.devices.available(at)].any():
            opens = self.opens(at)
            if opens is None:
                ends = self.devices.available_to[self._useful].max()
                raise RunError(
                    f"round {round}: network.traces={self.traces}: no client with samples can be reached after virtual "
                    f"second {ends:.10g}; with network.repeat=true the traces would begin anew"
                )
            at = opens
        return at

    def opens(self, after: float) -> float | None:
        """When the next client with samples can be reached that now cannot; None: never."""
        starts = self.devices.available_from[self._useful]
        later = np.concatenate([starts + begun for begun in self.devices.begins(after)])
        later = later[later > after]
        return float(later.min()) if len(later) else None

    def answer(self, round: int, client: int, at: float, start: int = 0) -> Arrival:
        """What becomes of asking an available client for a turn of this round, which it has begun `start` times."""
        row = self.devices.row(client, at)
        assert row is not None, "asked are those who are available"
        seconds, closes = float(self._seconds[row]), float(self.devices.available_to[row] + self.devices.begins(at)[0])
        luck = rng.generator(self.seed, "dropout", round, client).random(start + 1)[start] if self.dropout > 0 else 1
        silent = luck < self.dropout
        if not silent and seconds <= self.deadline and at + seconds <= closes:
            return Arrival(True, at + seconds, seconds)
        noticed = at + self.deadline if self.deadline < np.inf else min(at + seconds, closes)
        return Arrival(False, noticed, np.inf if silent or at + seconds > closes else seconds)
