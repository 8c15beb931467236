from pathlib import Path

import numpy as np

from fl_bench.data.arrays import FederatedData, Lookup, Ragged, new_column


def test_ragged_rows_are_padded_to_the_longest_asked_for() -> None:
    ragged = Ragged.of([[1, 2, 3], [4], [], [5, 6]])
    assert len(ragged) == 4
    assert ragged[np.array([1, 3])].tolist() == [[4, -1], [5, 6]]
    assert ragged[np.array([0, 2])].tolist() == [[1, 2, 3], [-1, -1, -1]]


def test_lookups_share_values() -> None:
    lookup = Lookup(np.array([[1.0], [2.0]]), np.array([0, 0, 1]))
    assert len(lookup) == 3
    assert lookup[np.array([2, 1])].tolist() == [[2], [1]]


def test_every_kind_of_column_comes_back_memory_mapped(tmp_path: Path) -> None:
    big = new_column(tmp_path, "train", "big", (3,), np.uint8)
    big[:] = [7, 8, 9]
    table = new_column(tmp_path, "train", "image", (2, 1), np.float32, part="table")
    table[:] = [[1], [2]]
    train = {
        "y": np.arange(3),
        "tokens": Ragged.of([[1], [2, 3], []]),
        "image": Lookup(table, np.array([1, 0, 1])),
        "big": big,
    }
    FederatedData(train, {"y": np.arange(2)}, ("a",)).save(tmp_path)
    opened = FederatedData.open(tmp_path)
    assert set(opened.train) == set(train)
    rows = np.array([1, 2])
    assert opened.train["tokens"][rows].tolist() == [[2, 3], [-1, -1]]
    assert opened.train["image"][rows].tolist() == [[1], [2]]
    assert opened.train["big"][rows].tolist() == [8, 9]
    assert isinstance(opened.train["image"].table.base, np.memmap)
    assert (opened.num_samples, opened.classes, opened.folder) == (3, ("a",), tmp_path)
