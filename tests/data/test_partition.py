"""Partitions against their definitions, and against flwr-datasets where it has the same one."""

import time
from typing import Any

import numpy as np
import pytest
from conftest import Launch, table
from numpy.typing import NDArray

from fl_bench.data import partition
from fl_bench.data.partition import Partition
from fl_bench.errors import ConfigError

LABELS = np.random.default_rng(0).integers(10, size=4000)
ALL: dict[str, dict[str, Any]] = {
    "iid": {}, "linear": {}, "square": {}, "exponential": {}, "dirichlet": {"alpha": 0.3},
    "dirichlet_equal": {"alpha": 1.0}, "shards": {"per_client": 2}, "pathological": {"classes_per_client": 2},
}  # fmt: skip


def make(
    name: str,
    num_clients: int = 10,
    holdout: float = 0.1,
    labels: NDArray[np.int64] = LABELS,
    seed: int = 1,
    **options: Any,
) -> Partition:
    owners = getattr(partition, name)({"y": labels}, num_clients, np.random.default_rng(seed), **(options or ALL[name]))
    return Partition.of(owners, num_clients, holdout, np.random.default_rng(seed))


@pytest.mark.parametrize("name", ALL)
def test_every_row_belongs_to_one_client_and_is_either_trained_on_or_held_out(name: str) -> None:
    made = make(name)
    rows = [made.train_rows(k) for k in range(10)] + [made.heldout_rows(k) for k in range(10)]
    assert sorted(np.concatenate(rows)) == list(range(4000))
    sizes = made.train_sizes + made.heldout_sizes
    assert (made.heldout_sizes == np.floor(sizes * 0.1)).all()
    assert (made.label_counts(LABELS, 10).sum(axis=1) == sizes).all()


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides(name: str) -> None:
    assert (make(name, seed=1).rows == make(name, seed=1).rows).all()
    assert (make(name, seed=1).rows != make(name, seed=2).rows).any()


def test_held_out_rows_by_hand() -> None:
    # clients 1, 0, 1, nobody, 1: client 0 holds row 1, client 1 rows 0, 2 and 4, of which a half, rounded down, is 1
    made = Partition.of(np.array([1, 0, 1, -1, 1]), 3, 0.5, np.random.default_rng(0))
    assert made.train_rows(0).tolist() == [1]
    assert made.heldout_sizes.tolist() == [0, 1, 0]
    assert sorted([*made.train_rows(1), *made.heldout_rows(1)]) == [0, 2, 4]
    assert made.train_sizes.tolist() == [1, 2, 0]


def test_iid_shares_are_equal() -> None:
    assert make("iid", num_clients=7, holdout=0).train_sizes.tolist() in (
        [571, 572, 571, 572, 571, 572, 571],
        [571, 572, 571, 571, 572, 571, 572],
    )


def sizes_by_flower(partitioner: str, labels: NDArray[np.int64], num_clients: int, **options: Any) -> list[int]:
    import datasets
    import flwr_datasets.partitioner

    made = getattr(flwr_datasets.partitioner, partitioner)(num_partitions=num_clients, **options)
    made.dataset = datasets.Dataset.from_dict({"y": labels})
    return [len(made.load_partition(k)) for k in range(num_clients)]


@pytest.mark.parametrize(("name", "partitioner"), [("linear", "LinearPartitioner"), ("square", "SquarePartitioner")])
def test_quantity_skew_agrees_with_flwr_datasets(name: str, partitioner: str) -> None:
    ours = make(name, holdout=0).train_sizes
    # flwr-datasets rounds all shares down and gives what is left to the last client
    assert np.abs(ours - sizes_by_flower(partitioner, LABELS, 10)).max() <= 9


def test_exponential_by_hand() -> None:
    shares = np.exp(np.arange(10)) / np.exp(np.arange(10)).sum() * 4000
    assert np.abs(make("exponential", holdout=0).train_sizes - shares).max() <= 1


def test_shards_are_pure_where_classes_divide_evenly() -> None:
    labels = np.repeat(np.arange(10), 40)
    counts = make("shards", labels=labels, holdout=0).label_counts(labels, 10)
    assert (counts.sum(axis=1) == 40).all()
    assert set(counts.ravel()) <= {0, 20, 40}


@pytest.mark.parametrize("classes_per_client", [1, 2, 10])
def test_pathological_clients_hold_just_so_many_classes(classes_per_client: int) -> None:
    counts = make("pathological", classes_per_client=classes_per_client).label_counts(LABELS, 10)
    assert ((counts > 0).sum(axis=1) == classes_per_client).all()
    for held in counts.T:  # those who hold a class hold equal parts of it
        assert np.ptp(held[held > 0]) <= 1


def test_natural_clients_hold_one_source_each(capsys: pytest.CaptureFixture[str]) -> None:
    sources = np.repeat([0, 1, 2], [10, 20, 30])
    owners = partition.natural({"source": sources}, 5, np.random.default_rng(0))
    made = Partition.of(owners, 5, 0, np.random.default_rng(0))
    held = [set(sources[made.train_rows(k)]) for k in range(5)]
    assert held == [{0}, {1}, {2}, {0}, {1}]
    assert made.train_sizes.tolist() == [5, 10, 30, 5, 10]
    assert "num_clients=5: the data has 3 sources, not one for each client" in capsys.readouterr().err


def test_fewer_clients_than_sources_hold_several_whole_ones(capsys: pytest.CaptureFixture[str]) -> None:
    sources = np.array([7, 7, 3, 5, 9, 9, 11])  # the sources 3, 5, 7, 9 and 11 go to the clients 0, 1, 0, 1, 0
    owners = partition.natural({"source": sources}, 2, np.random.default_rng(0))
    assert owners.tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert "num_clients=2: the data has 5 sources, not one for each client" in capsys.readouterr().err


def test_small_sources_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    sources = np.repeat([0, 1, 2, 3], [3, 1, 2, 3])
    owners = partition.natural({"source": sources}, 2, np.random.default_rng(0), min_samples=3)
    assert owners.tolist() == [0, 0, 0, -1, -1, -1, 1, 1, 1]
    assert "partition.min_samples=3: 2 of the 4 sources have fewer, and are left out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"partition.min_samples=4: no source has more than 3"):
        partition.natural({"source": sources}, 2, np.random.default_rng(0), min_samples=4)


def test_dirichlet_has_the_variance_of_its_distribution() -> None:
    # a share of Dirichlet(alpha) over K clients has mean 1/K and variance (K - 1) / (K^2 (K alpha + 1))
    labels = np.repeat(np.arange(50), 2000)
    counts = make("dirichlet", labels=labels, holdout=0, alpha=0.5).label_counts(labels, 50)
    assert (counts / 2000).mean() == pytest.approx(0.1)
    assert (counts / 2000).var() == pytest.approx(9 / (100 * 6), rel=0.15)


def drawn_once(labels: NDArray[np.int64], num_clients: int, alpha: float, rng: np.random.Generator) -> list[int]:
    """Yurochkin's draw, row by row."""
    owner_of: dict[int, int] = {}
    for label in np.unique(labels):
        rows = [row for row in range(len(labels)) if labels[row] == label]
        shares = rng.dirichlet([alpha] * num_clients)
        bounds = np.rint(np.cumsum(shares) / shares.sum() * len(rows)).astype(int)
        owners = [client for client in range(num_clients) for _ in range(bounds[client] - [0, *bounds][client])]
        owner_of |= dict(zip(rows, rng.permutation(owners), strict=True))
    return [int(owner_of[row]) for row in range(len(labels))]


def test_dirichlet_draws_once_and_with_min_samples_again_from_where_it_was() -> None:
    labels, rng = LABELS[:300], np.random.default_rng(4)
    draws = [drawn_once(labels, 8, 0.2, rng) for _ in range(20)]
    lowest = [min(map(draw.count, range(8))) for draw in draws]
    assert lowest[0] < 8 <= max(lowest)
    first = next(draw for draw in draws if min(map(draw.count, range(8))) >= 8)
    for wish, expected in ((0, draws[0]), (8, first)):
        owners = partition.dirichlet({"y": labels}, 8, np.random.default_rng(4), alpha=0.2, min_samples=wish)
        assert owners.tolist() == expected


@pytest.mark.parametrize(("min_samples", "sizes"), [(3, ([3, 3, 5, 5], [3, 3, 3, 7])), (4, ([4, 4, 4, 4],))])
def test_rows_are_moved_where_no_draw_gives_everybody_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], min_samples: int, sizes: tuple[list[int], ...]
) -> None:
    monkeypatch.setattr(partition, "DRAWS", 3)
    labels = np.repeat([0, 1], 8)  # alpha is so small that one client gets each class: 8 and 8, or 16
    owners = [
        partition.dirichlet({"y": labels}, 4, np.random.default_rng(1), alpha=1e-9, min_samples=min_samples)
        for _ in range(2)
    ]
    assert (owners[0] == owners[1]).all()
    assert sorted(np.bincount(owners[0])) in sizes
    said = capsys.readouterr().err
    assert f"note: partition.min_samples={min_samples}: not so in 3 draws; " in said
    assert said.count("\n") == 2  # one for each partition


def test_dirichlet_equal_gives_all_the_same_amount() -> None:
    for num_clients, sizes in ((8, {500}), (7, {571, 572})):
        for alpha in (1e-9, 0.1, 1.0, 1e9, 1e308):
            made = make("dirichlet_equal", num_clients, holdout=0, alpha=alpha)
            assert set(made.train_sizes.tolist()) == sizes
            assert made.train_sizes.sum() == 4000


def test_dirichlet_equal_draws_each_mix_around_that_of_the_data() -> None:
    # of Dirichlet(alpha p), a share has mean p and variance p (1 - p) / (alpha + 1); drawing n rows by it, without
    # replacement from very many, adds the multinomial's (E[q] - E[q^2]) / n
    labels = np.repeat([0, 1], [60_000, 20_000])
    first = []
    for seed in range(400):
        owners = partition.dirichlet_equal({"y": labels}, 40, np.random.default_rng(seed), alpha=2.0)
        first += [labels[owners == client].mean() for client in range(5)]
    variance = 0.25 * 0.75 / 3
    assert np.mean(first) == pytest.approx(0.25, abs=0.02)
    assert np.var(first) == pytest.approx(variance + (0.25 - 0.25**2 - variance) / 2000, rel=0.1)


def test_dirichlet_equal_takes_other_classes_where_one_has_run_out() -> None:
    labels = np.repeat([0, 1, 2], [6, 4, 2])
    for seed in range(20):  # with so small an alpha a client wants one class only, and goes on to another one
        owners = partition.dirichlet_equal({"y": labels}, 2, np.random.default_rng(seed), alpha=1e-9)
        counts = [np.bincount(labels[owners == client], minlength=3).tolist() for client in (0, 1)]
        assert counts[0] in ([6, 0, 0], [2, 4, 0], [0, 4, 2], [4, 0, 2]), counts
    one = partition.dirichlet_equal({"y": labels}, 12, np.random.default_rng(0), alpha=1e9)
    assert sorted(one) == list(range(12))


@pytest.mark.parametrize("name", ["dirichlet", "dirichlet_equal", "shards", "pathological"])
def test_partitions_by_class_refuse_numbers_to_predict(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^partition={name}: needs a class .* use partition=iid$"):
        getattr(partition, name)({"y": np.array([0.5, 1.5])}, 2, np.random.default_rng(0), **ALL[name])


def test_a_run_says_how_many_samples_nobody_holds(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    # each client holds two of the ten classes: two clients hold three at least and four at most
    words = ("partition=pathological", "data=synthetic", "data.num_samples=1000", "num_clients=2", "num_rounds=1")
    folder = launch(*words)
    held = sum(int(row["samples"]) for row in table(folder, "partition"))
    assert f"note: partition: no client holds {1000 - held} of the 1000 training samples\n" in capsys.readouterr().err
    launch(*words[1:])
    assert "no client holds" not in capsys.readouterr().err


def test_ten_thousand_clients_in_seconds() -> None:
    labels = np.random.default_rng(0).integers(10, size=100_000)
    start = time.process_time()
    for name in ALL:
        make(name, num_clients=10_000, labels=labels)
    assert time.process_time() - start < 7


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("dirichlet", {"alpha": 0.0}, "partition.alpha=0"),
        ("dirichlet", {"alpha": float("nan")}, "partition.alpha=nan"),
        ("dirichlet", {"alpha": 1.0, "min_samples": -1}, "partition.min_samples=-1: must be from 0 to 400"),
        ("dirichlet", {"alpha": 1.0, "min_samples": 401}, "partition.min_samples=401: must be from 0 to 400"),
        ("dirichlet_equal", {"alpha": 0.0}, "partition.alpha=0"),
        ("shards", {"per_client": 0}, "partition.per_client=0"),
        ("shards", {"per_client": 401}, "partition.per_client=401"),
        ("pathological", {"classes_per_client": 11}, "partition.classes_per_client=11"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make(name, **options)
