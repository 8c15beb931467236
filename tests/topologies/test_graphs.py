"""Graphs and their matrices, by hand and by what must hold of each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fl_bench.errors import ConfigError
from fl_bench.topologies import graphs
from fl_bench.topologies.gossip import Complete, File, Gossip, Random, Ring, Torus, among

Build = Callable[[int], Gossip]


def made(kind: type[Gossip], count: int, **keys: object) -> Gossip:
    return kind(seed=0, weights=np.ones(count, np.int64), num_bytes=4, delay=0.0, **keys)  # type: ignore[arg-type]


def neighbours(linked: graphs.Linked) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in linked]


def test_graphs_by_hand() -> None:
    assert neighbours(graphs.ring(5)) == [[1, 4], [0, 2], [1, 3], [2, 4], [0, 3]]
    assert neighbours(graphs.ring(2)) == [[1], [0]]
    assert neighbours(graphs.ring(1)) == [[]]
    # 0 1 2
    # 3 4 5
    # 6 7 8
    assert neighbours(graphs.torus(3, 3))[:5] == [[1, 2, 3, 6], [0, 2, 4, 7], [0, 1, 5, 8], [0, 4, 5, 6], [1, 3, 5, 7]]
    assert neighbours(graphs.complete(3)) == [[1, 2], [0, 2], [0, 1]]


def test_metropolis_and_hastings_by_hand() -> None:
    """A star of three around node 0: 1 / (1 + 3) on each link, and the rest for oneself."""
    linked = np.zeros((4, 4), bool)
    linked[0, 1:] = linked[1:, 0] = True
    expected = [[0.25, 0.25, 0.25, 0.25], [0.25, 0.75, 0, 0], [0.25, 0, 0.75, 0], [0.25, 0, 0, 0.75]]
    assert graphs.metropolis_hastings(linked).tolist() == expected


@pytest.mark.parametrize(("count", "degree"), [(5, 2), (6, 3), (8, 7), (12, 5), (9, 4), (30, 3), (2, 1)])
def test_a_drawn_regular_graph_is_regular_connected_and_of_the_seed(count: int, degree: int) -> None:
    one, again, other = (graphs.regular(count, degree, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (one.sum(axis=0) == degree).all()
    assert (one == one.T).all()
    assert not one.diagonal().any()
    assert graphs.parts(one) == 1
    assert (one == again).all()
    if degree < count - 1:
        assert (one != other).any()


def test_a_drawn_graph_has_links_by_chance() -> None:
    linked = graphs.erdos_renyi(60, 0.3, np.random.default_rng(0))
    assert graphs.parts(linked) == 1
    assert abs(linked.sum() / (60 * 59) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 1770)
    with pytest.raises(ValueError, match="none of 100 drawn graphs is connected"):
        graphs.erdos_renyi(60, 0.01, np.random.default_rng(0))


KINDS: dict[str, Build] = {
    "ring": lambda n: made(Ring, n),
    "torus": lambda n: made(Torus, n, rows=None),
    "complete": lambda n: made(Complete, n),
    "regular": lambda n: made(Random, n, degree=4, probability=None),
    "erdos_renyi": lambda n: made(Random, n, degree=4, probability=0.4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_is_symmetric_doubly_stochastic_and_comes_to_one_mean(kind: str) -> None:
    matrix = KINDS[kind](12).mixing
    assert (matrix == matrix.T).all()
    assert (matrix >= 0).all()
    assert np.abs(matrix.sum(axis=0) - 1).max() < 1e-12
    assert np.abs(np.linalg.matrix_power(matrix, 500) - 1 / 12).max() < 1e-6


def test_who_is_not_there_weighs_nothing_and_the_mean_stays() -> None:
    matrix = among(made(Ring, 5).mixing, np.array([0, 1, 3]))
    third = 1 / 3  # 0 and 1 have each other; 3 has nobody
    expected = [[2 * third, third, 0, 0, 0], [third, 2 * third, 0, 0, 0], *np.eye(5)[2:]]
    assert np.abs(matrix - expected).max() < 1e-15


def test_a_torus_has_as_many_columns_as_go() -> None:
    assert made(Torus, 12, rows=None).copies.tolist() == [4] * 12  # 3 x 4
    assert made(Torus, 12, rows=2).copies.tolist() == [3] * 12  # the row above is the row below
    for rows in (0, 5, -3):
        with pytest.raises(ValueError, match=f"rows={rows}: 12 clients do not make so many rows"):
            made(Torus, 12, rows=rows)


def test_a_matrix_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = np.array([[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]])
    np.savetxt(tmp_path / "w.csv", matrix, delimiter=",")
    np.save(tmp_path / "w.npy", matrix)
    for name in ("w.csv", "w.npy"):
        assert (made(File, 3, path=str(tmp_path / name)).mixing == matrix).all()
    assert "parts" not in capsys.readouterr().err
    np.save(tmp_path / "alone.npy", np.eye(3))
    made(File, 3, path=str(tmp_path / "alone.npy"))
    assert "falls into 3 parts" in capsys.readouterr().err


BAD = {
    "must have 3 rows and columns": np.eye(2),
    "must have no number below 0": np.array([[1.5, -0.5, 0], [-0.5, 1.5, 0], [0, 0, 1]]),
    "must be symmetric": np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]),  # though doubly stochastic
    "must have rows and columns that add up to 1": np.full((3, 3), 0.3),
    "must have no number": np.full((3, 3), np.nan),
}


@pytest.mark.parametrize("wish", BAD)
def test_what_is_no_matrix_of_a_graph_is_refused(tmp_path: Path, wish: str) -> None:
    np.save(tmp_path / "w.npy", BAD[wish])
    with pytest.raises(ConfigError, match=wish):
        made(File, 3, path=str(tmp_path / "w.npy"))


@pytest.mark.parametrize(("name", "content"), [("w.csv", b"a,b\n"), ("w.npy", b"no"), ("w.npy", None)])
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        made(File, 3, path=str(tmp_path / name))
