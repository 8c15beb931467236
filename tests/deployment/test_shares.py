"""A site's rows are those of its clients, in their order, and nobody else's."""

from pathlib import Path

import numpy as np
import pytest
from conftest import compose

from fl_bench.build import build
from fl_bench.data.arrays import FederatedData, Lookup, Ragged
from fl_bench.data.partition import UNSEEN, Partition
from fl_bench.deployment.shares import Held, share
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task

COLUMNS = {
    "x": np.arange(12, dtype=np.float32).reshape(6, 2),
    "y": np.array([0, 1, 0, 1, 0, 1]),
    "tokens": Ragged.of([[1], [2, 2], [3, 3, 3], [4], [5, 5], [6]]),
    "image": Lookup(np.array([[10.0], [20.0], [30.0]]), np.array([0, 1, 2, 0, 1, 2])),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    FederatedData(COLUMNS, {"y": np.zeros(3)}, ("no", "yes")).save(folder)
    Partition(np.array([5, 0, 3, 1]), np.array([0, 2, 3, 4]), np.array([1, 3, 4])).save(folder)  # client 0 holds out 0
    Partition(np.array([4, 2]), np.array([0, 2]), np.array([0])).save(folder, UNSEEN)  # client 3 never trains
    for name in ("vocabulary.json", "config.yaml", "init.safetensors"):
        (folder / name).write_text("{}")
    return folder


def test_a_site_has_its_clients_rows_in_their_order(source: Path, tmp_path: Path) -> None:
    share(source, tmp_path / "a", [0, 3])
    held = Held.open(tmp_path / "a")
    assert held.data.test == {}
    assert held.data.classes == ("no", "yes")
    assert (tmp_path / "a" / "vocabulary.json").exists()
    assert not (tmp_path / "a" / "config.yaml").exists()
    assert not (tmp_path / "a" / "init.safetensors").exists()
    train, unseen = held.parts
    assert [train.train_rows(0).tolist(), train.heldout_rows(0).tolist()] == [[0], [1]]
    assert [train.train_sizes.tolist(), train.heldout_sizes.tolist()] == [[1, 0, 0], [1, 0, 0]]
    assert unseen.heldout_rows(0).tolist() == [2, 3]
    columns = held.data.train
    assert columns["x"].tolist() == [[10, 11], [0, 1], [8, 9], [4, 5]]  # rows 5, 0, 4 and 2
    assert columns["y"].tolist() == [1, 0, 0, 0]
    assert columns["tokens"].flat.tolist() == [6, 1, 5, 5, 3, 3, 3]
    assert columns["image"][np.arange(4)].tolist() == [[30], [10], [20], [30]]
    share(source, tmp_path / "b", [1])
    assert Held.open(tmp_path / "b").data.train["image"].table.tolist() == [[10]]  # nobody else's image


def test_who_holds_what_is_the_same_at_the_site_as_in_the_whole(source: Path, tmp_path: Path) -> None:
    whole = Held.open(source).holdings()
    assert {client: held[:2] for client, held in whole.items()} == {0: (1, 1), 1: (1, 0), 2: (1, 0), 3: (0, 2)}
    for clients in ([0, 3], [1, 2]):
        share(source, folder := tmp_path / f"site{clients[0]}", clients)
        assert Held.open(folder).holdings() == {client: whole[client] for client in clients}
    other = dict(COLUMNS, y=np.array([1, 1, 0, 1, 0, 1]))
    FederatedData(other, {}, ("no", "yes")).save(source)  # row 0 has another label: client 0's
    assert [c for c, held in Held.open(source).holdings().items() if held != whole[c]] == [0]


def test_a_real_share_is_what_the_clients_hold(tmp_path: Path) -> None:
    cfg = compose("task=mnist", "num_clients=3")
    (tmp_path / "data").mkdir()
    prepare(cfg, build(cfg.task, Task), tmp_path / "data")
    share(tmp_path / "data", tmp_path / "site", [1])
    assert Held.open(tmp_path / "site").holdings() == {1: Held.open(tmp_path / "data").holdings()[1]}
