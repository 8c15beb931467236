"""The devices of the clients: how fast they compute, send and receive, and when they can be reached."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_bench.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Devices:
    """A table of R rows by client and time: a client has a row for each time in which it can be reached.

    A turn that does not fit into one row is not answered. The rows hold once, or anew in each period.
    """

    client: NDArray[np.int64]  # [R], rising; the other columns too
    seconds_per_step: Floats
    bytes_per_second_up: Floats
    bytes_per_second_down: Floats
    available_from: Floats  # virtual seconds; the row holds from here
    available_to: Floats  # to here
    period: float | None = field(default=None, kw_only=True)  # seconds; None: the rows hold once

    def begins(self, at: float) -> list[float]:
        """When the period of this time began and when the next one will, in virtual seconds; [0] if rows hold once."""
        if self.period is None:
            return [0.0]
        count = round(at / self.period)  # the quotient is rounded, so the product says which period it is
        count -= count * self.period > at
        return [count * self.period, (count + 1) * self.period]

    def row(self, client: int, at: float) -> int | None:
        """The client's row at this time, None when it cannot be reached."""
        first, end = np.searchsorted(self.client, (client, client + 1))
        open_now = self._open(at, slice(first, end))
        return int(first + np.argmax(open_now)) if open_now.any() else None

    def available(self, at: float) -> NDArray[np.int64]:
        """The clients that can be reached, rising."""
        return self.client[self._open(at, slice(None))]

    def _open(self, at: float, rows: slice) -> NDArray[np.bool_]:
        begun = self.begins(at)[0]
        open_now: NDArray[np.bool_] = (self.available_from[rows] + begun <= at) & (at < self.available_to[rows] + begun)
        return open_now


COLUMNS = tuple(column.name for column in fields(Devices) if not column.kw_only)


def drawn(generator: np.random.Generator, num_clients: int, medians: Sequence[float], spread: float) -> Devices:
    """Devices that are always there, with log-normal speeds; `spread` is the standard deviation of the logarithms."""
    step, up, down = (median * np.exp(spread * generator.standard_normal(num_clients)) for median in medians)
    always = np.full(num_clients, np.inf)
    return Devices(np.arange(num_clients), step, up, down, -always, always)


def read(file: Path, num_clients: int, repeat: bool = False) -> Devices:
    """Devices from a CSV file of traces with the columns of Devices; raises ConfigError at its first bad row.

    With `repeat` their period goes from second 0 to the last available_to, so every row must have an end.
    """
    import pandas as pd  # a quarter of a second, and most runs have no traces

    where = f"network.traces={file}"
    if file.exists() and not file.is_file():  # a pipe would wait for somebody to write
        raise ConfigError(f"{where}: is not a file")
    try:
        with file.open(newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            header = reader.fieldnames or []
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigError(f"{where}: cannot be read: {reason}") from error
    if lacking := [name for name in COLUMNS if name not in header]:
        raise ConfigError(f"{where}: has no column {', '.join(lacking)}")
    if long := [line for line, row in lines if None in row]:
        raise ConfigError(f"{where}: line {long[0]}: has more cells than the {len(header)} columns")
    table = pd.DataFrame([row for _, row in lines], index=[line for line, _ in lines], columns=COLUMNS, dtype=str)
    first = 0.0 if repeat else -np.inf
    unlimited = {"available_from": str(first), "available_to": "inf"}  # what an empty cell means
    texts = {name: table[name].str.strip().replace("", unlimited.get(name, "")) for name in COLUMNS}
    numbers = pd.DataFrame({name: pd.to_numeric(text, errors="coerce") for name, text in texts.items()}, dtype=float)
    last = num_clients - 1
    rules = (
        ("client", numbers.client.mod(1).eq(0) & numbers.client.between(0, last), f"a client, from 0 to {last}"),
        ("seconds_per_step", numbers.seconds_per_step.between(0, np.inf, "left"), "a number from 0"),
        ("bytes_per_second_up", numbers.bytes_per_second_up > 0, "a positive number"),
        ("bytes_per_second_down", numbers.bytes_per_second_down > 0, "a positive number"),
        ("available_from", numbers.available_from >= first, f"a number of seconds{' from 0' * repeat}, or empty"),
        ("available_to", numbers.available_to > numbers.available_from, "more than available_from, or empty"),
        ("available_to", numbers.available_to.lt(np.inf) | (not repeat), "a number, since network.repeat=true"),
    )
    bad = [(line, name, wish) for name, holds, wish in rules for line in table.index[~holds]]
    if bad:
        line, name, wish = min(bad, key=lambda found: found[0])
        raise ConfigError(f"{where}: line {line}: {name} is {table[name][line]!r}: must be {wish}")
    numbers = numbers.sort_values(["client", "available_from"])
    overlapping = numbers.client.eq(numbers.client.shift()) & (numbers.available_from < numbers.available_to.shift())
    if overlapping.any():
        line = numbers.index[overlapping].min()
        raise ConfigError(f"{where}: line {line}: its time overlaps with that of another row of the same client")
    if absent := set(range(num_clients)) - set(numbers.client):
        raise ConfigError(f"{where}: has no row for client {min(absent)}, and num_clients={num_clients}")
    client, *others = (numbers[name].to_numpy() for name in COLUMNS)
    return Devices(client.astype(np.int64), *others, period=float(numbers.available_to.max()) if repeat else None)
