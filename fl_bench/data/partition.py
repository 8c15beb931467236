"""Who holds which training rows: computed once in the driver, as three index arrays whatever the number of clients.

Each function that a `conf/partition/*.yaml` names takes the training columns, the number of clients and a generator,
and returns the owner of each row [N], -1 for a row that nobody gets. (flwr-datasets has most of these too, but takes
over a minute for 10,000 clients, and refuses a client without samples.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fl_bench.config.rules import AUTO_CLIENTS, require
from fl_bench.data.arrays import Columns, Ints, new_array, open_array
from fl_bench.data.labels import labels_of
from fl_bench.data.mixes import bounds_of, mixed
from fl_bench.errors import ConfigError, note

UNSEEN = "partition.unseen"  # the name of the partition of clients who never train
NOBODY = np.empty(0, np.int64)
DRAWS = 1000  # at most, until every client has partition.min_samples


@dataclass(frozen=True)
class Partition:
    """Client k trains on rows[starts[k]:ends[k]] and holds out rows[ends[k]:starts[k + 1]].

    Examples:
        >>> made = Partition.of(np.array([1, 0, 1, -1, 1]), num_clients=2, holdout=0.5, rng=np.random.default_rng(0))
        >>> made.train_rows(0).tolist(), made.train_sizes.tolist(), made.heldout_sizes.tolist()
        ([1], [1, 2], [0, 1])
    """

    rows: Ints  # none where `elsewhere`
    starts: Ints  # [num_clients + 1]
    ends: Ints  # [num_clients]

    @classmethod
    def of(
        cls, owners: Ints, num_clients: int, holdout: float, rng: Generator, heldout: NDArray[np.bool_] | None = None
    ) -> "Partition":
        """Each client's rows in random order, the last `holdout` of them (rounded down) held out, or as `heldout` says.

        `owners` [N] has the owner of each row, -1 for nobody; `heldout` [N] says of each row whether it is held out.
        """
        order = rng.permutation(len(owners))
        late = np.zeros(len(owners), bool) if heldout is None else heldout
        order = order[np.lexsort((late[order], owners[order]))]
        rows = order[np.searchsorted(owners[order], 0) :]
        sizes = np.bincount(owners[rows], minlength=num_clients)
        starts = np.concatenate(([0], np.cumsum(sizes)))
        kept = sizes * holdout if heldout is None else np.bincount(owners[rows[late[rows]]], minlength=num_clients)
        return cls(rows, starts, starts[1:] - kept.astype(np.int64))

    def train_rows(self, client: int) -> Ints:
        """What the client trains on."""
        return self.rows[self.starts[client] : self.ends[client]]

    def heldout_rows(self, client: int) -> Ints:
        """What the client is evaluated on."""
        return self.rows[self.ends[client] : self.starts[client + 1]]

    @property
    def elsewhere(self) -> bool:
        """Whether only the sizes are known here, as the rows are at sites."""
        return len(self.rows) < int(self.starts[-1])

    @property
    def train_sizes(self) -> Ints:
        """How many rows each client trains on [num_clients]."""
        return self.ends - self.starts[:-1]

    @property
    def heldout_sizes(self) -> Ints:
        """How many rows each client holds out [num_clients]."""
        return self.starts[1:] - self.ends

    def label_counts(self, labels: Ints, num_classes: int) -> Ints:
        """How many rows of each class each client holds, held-out ones included: [num_clients, num_classes]."""
        num_clients = len(self.ends)
        owners = np.repeat(np.arange(num_clients), np.diff(self.starts))
        counts = np.bincount(owners * num_classes + labels[self.rows], minlength=num_clients * num_classes)
        return counts.reshape(num_clients, num_classes)

    def of_clients(self, clients: Ints) -> "Partition":
        """That of these clients only, who become 0, 1, ..."""
        rows = [self.rows[self.starts[client] : self.starts[client + 1]] for client in clients]
        starts = np.concatenate(([0], np.cumsum([len(held) for held in rows]))).astype(np.int64)
        ends = starts[:-1] + self.train_sizes[clients]
        return Partition(np.concatenate([*rows, NOBODY]), starts, ends)

    def save(self, folder: Path, name: str = "partition") -> None:
        """Write the three arrays to `folder`."""
        for part, array in vars(self).items():
            new_array(folder / f"{name}.{part}.npy", array.shape, array.dtype)[...] = array

    @classmethod
    def open(cls, folder: Path, name: str = "partition") -> "Partition":
        """What `save` has written, mapped read-only."""
        return cls(*(open_array(folder / f"{name}.{part}.npy") for part in ("rows", "starts", "ends")))


def iid(columns: Columns, num_clients: int, rng: Generator) -> Ints:
    """Equal shares, drawn at random.

    Examples:
        >>> np.bincount(iid({"y": np.zeros(8)}, 4, np.random.default_rng(0))).tolist()
        [2, 2, 2, 2]
    """
    return _by_share(np.ones(num_clients), _count(columns), rng)


def linear(columns: Columns, num_clients: int, rng: Generator) -> Ints:
    """Client k holds a share proportional to k + 1.

    Examples:
        >>> np.bincount(linear({"y": np.zeros(10)}, 4, np.random.default_rng(0))).tolist()
        [1, 2, 3, 4]
    """
    return _by_share(np.arange(1.0, num_clients + 1), _count(columns), rng)


def square(columns: Columns, num_clients: int, rng: Generator) -> Ints:
    """Client k holds a share proportional to (k + 1) squared.

    Examples:
        >>> np.bincount(square({"y": np.zeros(14)}, 3, np.random.default_rng(0))).tolist()
        [1, 4, 9]
    """
    return _by_share(np.arange(1.0, num_clients + 1) ** 2, _count(columns), rng)


def exponential(columns: Columns, num_clients: int, rng: Generator) -> Ints:
    """Client k holds a share proportional to exp(k + 1).

    Examples:
        >>> np.bincount(exponential({"y": np.zeros(100)}, 3, np.random.default_rng(0))).tolist()
        [9, 24, 67]
    """
    return _by_share(np.exp(np.arange(num_clients) - num_clients), _count(columns), rng)


def dirichlet(columns: Columns, num_clients: int, rng: Generator, alpha: float, min_samples: int = 0) -> Ints:
    """Yurochkin et al. 2019, arXiv:1905.12022: each class is shared out in shares drawn from Dirichlet(alpha).

    The smaller alpha, the more skewed are labels and amounts; a client may get nothing. Where one gets less than
    `min_samples`, held-out ones included, all is drawn again, as in NIID-Bench (Li et al. 2022, arXiv:2102.02079).
    After 1,000 draws, clients with too few rows get random ones of whoever has most at the time; a note says so.

    Raises:
        ConfigError: where alpha is not positive and finite, `min_samples` too high, or "y" missing or not of classes.

    Examples:
        >>> owners = dirichlet({"y": np.repeat([0, 1], 50)}, 3, np.random.default_rng(0), alpha=100.0)
        >>> len(owners), sorted(set(owners.tolist()))
        (100, [0, 1, 2])
    """
    labels = labels_of(columns, "dirichlet")
    require("partition.alpha", alpha, 0 < alpha < np.inf, "must be a positive number")
    if not 0 <= min_samples * num_clients <= len(labels):
        wish = f"must be from 0 to {len(labels) // num_clients}, as {num_clients} clients share {len(labels)} samples"
        raise ConfigError(f"partition.min_samples={min_samples}: {wish}")
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    owners = np.empty(len(labels), dtype=np.int64)
    for _ in range(DRAWS):
        for rows in classes:
            owners[rows] = _by_share(rng.dirichlet(np.full(num_clients, alpha)), len(rows), rng)
        if np.bincount(owners, minlength=num_clients).min() >= min_samples:
            return owners
    moved = _top_up(owners, num_clients, min_samples, rng)
    note(f"partition.min_samples={min_samples}: not so in {DRAWS} draws; {moved} samples went to clients with too few")
    return owners


def dirichlet_equal(columns: Columns, num_clients: int, rng: Generator, alpha: float) -> Ints:
    """Hsu et al. 2019, arXiv:1909.06335: each client draws its mix of classes from Dirichlet(alpha * the data's mix).

    All hold equally many rows (or one more), drawn by the client's mix without replacement, one client after the other.
    Where a class has run out, the mix is that of the other classes.

    Raises:
        ConfigError: where alpha is not positive and finite, or "y" missing or not of classes.

    Examples:
        >>> labels = np.repeat([0, 1], 4)
        >>> owners = dirichlet_equal({"y": labels}, 2, np.random.default_rng(0), alpha=1e-9)
        >>> np.bincount(owners).tolist(), [len(set(labels[owners == client])) for client in (0, 1)]
        ([4, 4], [1, 1])
    """
    labels = labels_of(columns, "dirichlet_equal")
    sizes = np.diff(np.arange(num_clients + 1) * len(labels) // num_clients)
    return mixed(labels, sizes, rng, alpha)


def shards(columns: Columns, num_clients: int, rng: Generator, per_client: int) -> Ints:
    """McMahan et al. 2017, section 3: rows sorted by label, cut into equal shards, `per_client` of them each.

    Raises:
        ConfigError: where a client would get no shard, or a shard no row, or "y" is missing or not of classes.

    Examples:
        >>> owners = shards({"y": np.repeat([0, 1], 4)}, 2, np.random.default_rng(0), per_client=2)
        >>> np.bincount(owners).tolist()
        [4, 4]
    """
    labels = labels_of(columns, "shards")
    num_shards = num_clients * per_client
    if not num_clients <= num_shards <= len(labels):
        wish = (
            f"must be between 1 and {len(labels) // num_clients}, as {num_clients} clients share {len(labels)} samples"
        )
        raise ConfigError(f"partition.per_client={per_client}: {wish}")
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    client_of_shard = rng.permutation(num_shards) // per_client
    owners = np.empty(len(labels), dtype=np.int64)
    owners[order] = client_of_shard[np.arange(len(labels)) * num_shards // len(labels)]
    return owners


def pathological(columns: Columns, num_clients: int, rng: Generator, classes_per_client: int) -> Ints:
    """Each client holds rows of `classes_per_client` random classes; those who hold a class share it equally.

    Client k always holds class k modulo the number of classes, so that with enough clients no class is left over.

    Raises:
        ConfigError: where there are not so many classes, or not one is wished, or "y" is missing or not of classes.

    Examples:
        >>> labels = np.repeat([0, 1], 4)
        >>> owners = pathological({"y": labels}, 2, np.random.default_rng(0), classes_per_client=1)
        >>> labels[owners == 0].tolist(), labels[owners == 1].tolist()
        ([0, 0, 0, 0], [1, 1, 1, 1])
    """
    labels = labels_of(columns, "pathological")
    classes = np.unique(labels)
    if not 1 <= classes_per_client <= len(classes):
        raise ConfigError(f"partition.classes_per_client={classes_per_client}: must be between 1 and {len(classes)}")
    lots = rng.random((num_clients, len(classes)))
    lots[np.arange(num_clients), np.arange(num_clients) % len(classes)] = -1
    chosen = np.argsort(lots, axis=1)[:, :classes_per_client]
    owners = np.full(len(labels), -1, dtype=np.int64)
    for index, label in enumerate(classes):
        holders = np.flatnonzero((chosen == index).any(axis=1))
        rows = np.flatnonzero(labels == label)
        if len(holders):
            owners[rows] = holders[_by_share(np.ones(len(holders)), len(rows), rng)]
    return owners


def natural(columns: Columns, num_clients: int | Literal["auto"], rng: Generator, min_samples: int = 0) -> Ints:
    """Each client holds rows of one source only (column "source"); client k of source k modulo their number.

    With fewer clients, source k goes to client k modulo theirs. Sources of fewer than `min_samples` rows are left out.
    With "auto" there are as many clients as sources that are left.

    Raises:
        ConfigError: where all sources are left out, or the data has no column "source".

    Examples:
        >>> natural({"source": np.repeat([0, 1], [2, 4])}, 2, np.random.default_rng(0)).tolist()
        [0, 0, 1, 1, 1, 1]
    """
    if "source" not in columns:
        wish = "set data.client where data has that key, or use partition=iid"
        raise ConfigError(f'partition=natural: the data has no column "source", which says whose a row is; {wish}')
    sources = columns["source"]
    owners = np.full(len(sources), -1, dtype=np.int64)
    names, sizes = np.unique(sources, return_counts=True)
    require("partition.min_samples", min_samples, min_samples <= sizes.max(), f"no source has more than {sizes.max()}")
    if few := np.count_nonzero(sizes < min_samples):
        note(f"partition.min_samples={min_samples}: {few} of the {len(names)} sources have fewer, and are left out")
        names = names[sizes >= min_samples]
    if num_clients == AUTO_CLIENTS:
        num_clients = len(names)
        note(f"num_clients=auto: {num_clients}, one for each source of the data")
    if num_clients != len(names):
        note(f"num_clients={num_clients}: the data has {len(names)} sources, not one for each client")
    for index, name in enumerate(names):
        holders = np.arange(index, max(num_clients, index + 1), len(names)) % num_clients
        rows = np.flatnonzero(sources == name)
        owners[rows] = holders[_by_share(np.ones(len(holders)), len(rows), rng)]
    return owners


def _count(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _top_up(owners: Ints, num_clients: int, min_samples: int, rng: Generator) -> int:
    """Change `owners` so that each client has `min_samples` rows, and return how many have changed hands."""
    before = Partition.of(owners, num_clients, 0, rng)
    sizes = before.train_sizes
    lacks = np.maximum(min_samples - sizes, 0)
    for poor in np.repeat(np.arange(num_clients), lacks):
        rich = sizes.argmax()  # it has more than min_samples, as somebody has less
        sizes[rich] -= 1
        owners[before.rows[before.starts[rich] + sizes[rich]]] = poor
    return int(lacks.sum())


def _by_share(shares: NDArray[np.float64], num_rows: int, rng: Generator) -> Ints:
    """An owner for each of `num_rows` rows, at random, so that owner k gets shares[k] / sum(shares) of them."""
    sizes = np.diff(bounds_of(shares, num_rows), prepend=0)
    return rng.permutation(np.repeat(np.arange(len(shares)), sizes))
