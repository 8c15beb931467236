"""Who holds which rows, as a table that other programs can read, and that `partition=file` reads again."""

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.data.arrays import Columns, FederatedData
from fl_bench.data.labels import countable
from fl_bench.data.partition import Partition
from fl_bench.errors import ConfigError
from fl_bench.storage import files

NAME = "split.csv.gz"
HELD = "partition.csv"
ANY = "any"  # in place of the labels that only the sites know
COLUMNS = ["row", "client", "heldout", "unseen"]


class Split(NamedTuple):
    """What a partition returns that also says which rows are held out."""

    owners: NDArray[np.int64]  # [N]: of each training row the client, -1 for nobody
    heldout: NDArray[np.bool_] | None = None  # [N]; None: the share partition.holdout of each client's rows
    unseen: NDArray[np.int64] | None = None  # the clients who never train, rising; None: the share partition.unseen


def validation_rows(share: float | str, num_samples: int, seed: int) -> NDArray[np.int64]:
    """The training rows that the server keeps to choose by, rising, on which nobody trains; none with "clients"."""
    count = 0 if isinstance(share, str) else int(num_samples * share)
    return np.sort(rng.generator(seed, "validation").choice(num_samples, count, replace=False))


def root_rows(size: int, validation: NDArray[np.int64], num_samples: int, seed: int) -> NDArray[np.int64]:
    """The training rows that the server keeps to train on, rising; none of those by which it chooses."""
    rest = np.delete(np.arange(num_samples), validation)
    return rest[np.sort(rng.generator(seed, "root").choice(len(rest), size, replace=False))]


def write(data: FederatedData, partition: Partition, unseen: Partition, folder: Path) -> None:
    """Write to `folder` who holds what; clients who never train come after those who do, as in all tables of a run.

    partition.csv: how many samples of each label, or range of numbers, each client holds, where it holds any.
    sources.csv, where the data has sources: how many of each. And every row that somebody holds: its number, its
    client, whether it is held out, and whether the client never trains (1 or 0). Where the rows are elsewhere, only how
    many each client holds; where clients hold columns, what was found of these before.
    """
    both = (partition, unseen)
    if (held := data.folder / HELD).exists():
        files.write(folder / HELD, held.read_bytes())
        return
    if partition.elsewhere:
        sizes = np.concatenate([np.diff(part.starts) for part in both])
        _write_counts(sizes[:, None], folder / HELD, "label", [ANY])
        return
    numbers, names = countable(data.train["y"], data.classes)
    _write_counts(_counts(both, numbers, names), folder / HELD, "label", names)
    if "source" in data.train:
        values, numbers = np.unique(data.train["source"], return_inverse=True)
        names = [data.sources[value] if data.sources else str(value) for value in values]
        _write_counts(_counts(both, numbers, names), folder / "sources.csv", "source", names)
    parts = []
    for first, part in zip((0, len(partition.ends)), both, strict=True):
        clients = np.repeat(np.arange(len(part.ends)), np.diff(part.starts))
        late, never = np.arange(len(part.rows)) >= part.ends[clients], np.full(len(part.rows), part is unseen)
        parts.append(np.stack([part.rows, first + clients, late, never], axis=1))
    table = np.concatenate(parts)
    text = files.csv_of([COLUMNS, *table[np.argsort(table[:, 0])].tolist()])
    files.write(folder / NAME, gzip.compress(text, compresslevel=1, mtime=0))  # more takes long, for a tenth less


def _counts(partitions: Iterable[Partition], numbers: NDArray, names: Sequence[str]) -> NDArray[np.int64]:
    """How many samples of each of the `names` each client holds; `numbers` [N] has that of a sample."""
    return np.concatenate([partition.label_counts(numbers, len(names)) for partition in partitions])


def _write_counts(counts: NDArray[np.int64], file: Path, what: str, names: Sequence[str]) -> None:
    """A row for each client and each of the `names` that it holds samples of; `counts` [num_clients, names]."""
    clients, held = np.nonzero(counts)
    cells = zip(clients.tolist(), map(names.__getitem__, held.tolist()), counts[clients, held].tolist(), strict=True)
    files.write(file, files.csv_of([("client", what, "samples"), *cells]))


def from_file(columns: Columns, num_clients: int, rng: Generator, path: str | None) -> Split:
    """The partition in a CSV file with columns row, client and, where it is to say so, heldout and unseen (0 or 1).

    Rows that are not in it nobody holds. Any `split.csv.gz` of a run is such a file.

    Raises:
        ConfigError: where the file cannot be read, or names rows or clients that there are not.
    """
    import pandas as pd  # a quarter of a second, for this partition only

    count = len(next(iter(columns.values())))
    where = f"partition.path={path}"
    if path is None:
        raise ConfigError(f"{where}: give a CSV file with columns row and client, such as a run's {NAME}")
    try:
        table: Any = pd.read_csv(Path(path).expanduser())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be read ({' '.join(str(error).split())})") from error
    if lacking := [name for name in COLUMNS[:2] if name not in table]:
        raise ConfigError(
            f"{where}: has no column {lacking[0]}; it needs row and client, and may have heldout and unseen"
        )
    ends = (("row", count, ""), ("client", num_clients, f", as num_clients={num_clients}"))
    for name, end, why in (*ends, ("heldout", 2, ""), ("unseen", 2, "")):
        if name in table and not (table[name].dtype.kind == "i" and table[name].between(0, end - 1).all()):
            raise ConfigError(f"{where}: column {name} must have integers from 0 to {end - 1}{why}")
    if table.row.duplicated().any():
        raise ConfigError(f"{where}: names row {table.row[table.row.duplicated()].iloc[0]} twice")
    owners, heldout = np.full(count, -1, np.int64), np.zeros(count, bool)
    owners[table.row] = table.client
    if "heldout" in table:
        heldout[table.row] = table.heldout == 1
    unseen = np.unique(table.client[table.unseen == 1]) if "unseen" in table else None
    return Split(owners, heldout if "heldout" in table else None, unseen)


def sites(columns: Columns, num_clients: int, rng: Generator) -> Split:
    """As the sites of a deployment hold their own rows: what there is where there are none to ask.

    Raises:
        ConfigError: always.
    """
    raise ConfigError("partition=sites: only engine=deployment has sites, which hold rows of their own")
