"""Who holds which columns of which rows, and the rows that all have."""

from collections.abc import Sized
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.errors import ConfigError
from fl_bench.vertical.alignment import PLACE_BYTES, Side, intersect

SPLIT, TOGETHER, ALONE = COLUMNS = ("split", "together", "alone")  # what setting.columns may be
PSI, KNOWN = ALIGNMENTS = ("psi", "known")  # what setting.alignment may be


def blocks(num_columns: int, num_clients: int, columns: str) -> list[slice]:
    """The columns of each party, those of the label holder at last: neighbours, and equally many or one more.

    Where the columns are `together` or the label holder is `alone` there is no other party.

    Raises:
        ConfigError: where a party would have none.

    Examples:
        >>> blocks(7, 2, "split"), blocks(7, 2, "alone"), blocks(7, 2, "together")
        ([slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)], [slice(5, 7, None)], [slice(0, 7, None)])
    """
    if num_columns <= num_clients:
        wish = f"must be less than {num_columns}, the columns of the data: the label holder has some too"
        raise ConfigError(f"num_clients={num_clients}: {wish}")
    if columns == TOGETHER:
        return [slice(0, num_columns)]
    parts = np.array_split(np.arange(num_columns), num_clients + 1)
    shares = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
    return shares[-1:] if columns == ALONE else shares


class Aligned(NamedTuple):
    rows: NDArray[np.int64]  # that all parties have, in an order that all know
    table: list[tuple[object, ...]]  # partition.csv: who holds what, and what it took to find the common rows


HEADER = ("client", "first_column", "last_column", "rows", "aligned", "bytes_up", "bytes_down")
HOLDER = "labels"  # the name of the label holder in the tables, where clients have numbers


def align(
    rows: NDArray[np.int64],
    num_columns: int,
    num_clients: int,
    columns: Literal["split", "together", "alone"],
    overlap: float,
    alignment: Literal["psi", "known"],
    seed: int,
) -> Aligned:
    """What the parties find out before the first round. The label holder has all `rows` [N], in any order.

    Each client has `overlap` of them, drawn by the seed. With the label holder `alone` nothing needs to be found.

    Raises:
        ConfigError: where no row is common, or there are too few columns.
    """
    shares = blocks(num_columns, num_clients, columns)
    order: NDArray[np.int64] = rng.generator(seed, "aligned order").permutation(rows)
    if columns == ALONE:
        return Aligned(order, [HEADER, _row(HOLDER, shares[0], order, order)])
    held = [_drawn(order, overlap, seed, client) for client in range(num_clients)]
    common, table = np.ones(len(order), bool), []
    holder = Side(_ids(order), _secret(seed, num_clients))
    for client, its in enumerate(held):
        up = down = 0
        if alignment == PSI:
            match = intersect(holder, Side(_ids(its), _secret(seed, client)))
            found, up, down = match.ours, match.bytes_up, match.bytes_down
        else:
            found = np.flatnonzero(np.isin(order, its))
        mine = np.zeros(len(order), bool)
        mine[found] = True
        common &= mine
        table.append((client, its, up, down))
    aligned = order[common]
    if not len(aligned):
        raise ConfigError(f"setting.overlap={overlap}: no row is held by all of {num_clients} parties; raise it")
    # Each is told at last which rows all have.
    told = PLACE_BYTES * len(aligned) if alignment == PSI else 0
    whose = shares[:-1] if columns == SPLIT else [slice(0, 0)] * num_clients
    lines = [_row(k, whose[k], its, aligned, up, down + told) for k, its, up, down in table]
    return Aligned(aligned, [HEADER, *lines, _row(HOLDER, shares[-1], order, aligned)])


def _row(who: object, part: slice, held: Sized, common: Sized, up: int = 0, down: int = 0) -> tuple[object, ...]:
    return who, part.start, part.stop - 1, len(held), len(common), up, down


def _drawn(rows: NDArray[np.int64], overlap: float, seed: int, client: int) -> NDArray[np.int64]:
    generator = rng.generator(seed, "overlap", client=client)
    drawn: NDArray[np.int64] = generator.choice(rows, round(overlap * len(rows)), replace=False)
    return drawn


def _ids(rows: NDArray[np.int64]) -> list[bytes]:
    return [b"row %d" % row for row in rows]


def _secret(seed: int, party: int) -> bytes:
    return rng.generator(seed, "alignment", client=party).bytes(32)
