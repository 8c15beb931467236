"""Each client's own camera, and its own names of the classes: by hand, and only where they belong."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, compose, table
from numpy.typing import NDArray

from fl_bench.build import build
from fl_bench.data import shift
from fl_bench.data.arrays import new_column
from fl_bench.data.partition import Partition
from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task

TEN = tuple("0123456789")
GREY = np.full((9, 3, 8, 8), 100, np.uint8)
SMALL = ("task=cifar", "data=synthetic", "data.num_samples=200", "num_clients=5")


def shared_out(owners: list[int], num_clients: int, holdout: float = 0.5) -> Partition:
    return Partition.of(np.array(owners), num_clients, holdout, np.random.default_rng(0))


def shifted(name: str, columns: Any, partition: Partition, seed: int = 0, classes: Any = TEN, **keys: Any) -> Any:
    return getattr(shift, name)(columns, partition, classes, seed, **keys)


def make(tmp_path: Path, *words: str) -> Trainer:
    folder = tmp_path / f"data of {' '.join(words)}"
    folder.mkdir()
    cfg = compose(*SMALL, *words)
    return prepare(cfg, build(cfg.task, Task), folder)


def test_each_client_sees_its_images_turned_and_the_server_does_not(tmp_path: Path) -> None:
    plain, turned = make(tmp_path), make(tmp_path, "shift=rotation")
    before, after, partition = plain.data.train["x"], turned.data.train["x"], turned.partition
    for client, quarters in enumerate([0, 1, 2, 3, 0]):
        rows = np.concatenate([partition.train_rows(client), partition.heldout_rows(client)])
        assert len(partition.heldout_rows(client)) == 4
        assert (after[rows] == np.rot90(before[rows], quarters, axes=(2, 3))).all()
    assert (turned.data.test["x"] == plain.data.test["x"]).all()
    assert (turned.data.train["y"] == plain.data.train["y"]).all()


def test_noise_grows_with_the_client_and_is_of_the_row() -> None:
    partition = shared_out([0, 0, 1, 1, 2, 2, 2, -1, 2], 3)
    images = GREY.copy()
    noisy = shifted("noise", {"x": images}, partition, strength=0.1)["x"].astype(float)
    assert (images == 100).all()
    deviations = noisy.std(axis=(1, 2, 3))
    assert deviations[[0, 1, 7]].tolist() == [0, 0, 0]
    assert deviations[[2, 3]] == pytest.approx(12.75, rel=0.15)  # 255 x 0.1 / 2
    assert deviations[[4, 5, 6, 8]] == pytest.approx(25.5, rel=0.15)
    fewer = shared_out([-1, 1, 0, 1, -1, -1, 2, -1, 0], 3, holdout=0)
    again = shifted("noise", {"x": images}, fewer, strength=0.1)["x"]
    assert (again[[3, 6]] == noisy[[3, 6]]).all()  # they are the same clients'
    assert (again[8] == 100).all()
    assert (shifted("noise", {"x": images}, partition, seed=1, strength=0.1)["x"][6] != noisy[6]).any()


def test_noise_stays_within_what_a_pixel_can_be() -> None:
    black = np.zeros((2, 1, 8, 8), np.uint8)
    noisy = shifted("noise", {"x": black}, shared_out([0, 1], 2), strength=0.1)["x"]
    assert noisy[1].max() < 120  # and does not wrap around
    assert (noisy[1] == 0).mean() == pytest.approx(0.5, abs=0.2)


def test_colours_are_an_affine_map_of_each_channel_of_a_client() -> None:
    ramp = np.broadcast_to(np.arange(80, 144, dtype=np.uint8).reshape(8, 8), (4, 3, 8, 8)).copy()
    seen = shifted("colour", {"x": ramp}, shared_out([0, 0, 1, 1], 2), strength=0.3)["x"]
    assert (seen[0] == seen[1]).all()
    gains = []
    for client, channel in np.ndindex(2, 3):
        y = seen[2 * client, channel].ravel().astype(float)
        gain, offset = np.polyfit(np.arange(80.0, 144), y, 1)
        gains.append(gain)
        assert 0.69 < gain < 1.31
        assert abs(offset) < 0.15 * 255 + 1
        assert np.abs(y - gain * np.arange(80, 144) - offset).max() < 0.8  # rounding
    assert len(np.unique(np.round(gains, 3))) == 6
    assert (shifted("colour", {"x": ramp}, shared_out([0, 0, 1, 1], 2), strength=0.0)["x"] == ramp).all()


def test_blur_spreads_a_point_as_a_gaussian() -> None:
    point = np.zeros((3, 1, 15, 15), np.uint8)
    point[:, 0, 7, 7] = 255
    seen = shifted("blur", {"x": point}, shared_out([0, 1, 2], 3), sigma=2.0)["x"]
    assert (seen[0] == point[0]).all()
    assert seen[1, 0, 7, 7] == 41  # 255 x 0.3989 ** 2
    assert seen[1, 0, 7, 8] == seen[1, 0, 6, 7] == 25  # times exp(-1 / 2)
    assert seen[2, 0, 7, 7] == 10  # a quarter


def test_groups_disagree_about_every_class() -> None:
    y = np.array([0, 1, 2, 3] * 5)
    partition = shared_out([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [-1] * 4, 4)
    found = shifted("labels", {"y": y}, partition, classes=TEN[:4], groups=3)["y"].reshape(5, 4)
    assert found[[0, 3, 4]].tolist() == 3 * [[0, 1, 2, 3]]
    first, second = found[1], found[2]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3]
    assert first[first].tolist() == second.tolist()  # two places on are twice one place on
    assert (first != [0, 1, 2, 3]).all()
    assert (second != [0, 1, 2, 3]).all()
    assert y.tolist() == [0, 1, 2, 3] * 5


def test_the_circle_of_classes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn:
        def permutation(self, count: int) -> NDArray[np.int64]:
            return np.array([2, 0, 1])

    monkeypatch.setattr("fl_bench.data.shift.rng.generator", lambda seed, purpose: Drawn())
    y = np.array([0, 1, 2, 0, 1, 2])
    found = shifted("labels", {"y": y}, shared_out([0] * 3 + [1] * 3, 2), classes=TEN[:3], groups=2)["y"]
    assert found.tolist() == [0, 1, 2, 1, 2, 0]  # after 0 comes 1, after 1 the circle's first, 2 -> 0


def test_wrong_labels_are_the_later_clients_and_never_held_out() -> None:
    y = np.random.default_rng(0).integers(10, size=9000)
    partition = shared_out([0] * 3000 + [1] * 3000 + [2] * 3000, 3, holdout=0.2)
    found = shifted("label_noise", {"y": y}, partition, strength=0.5)["y"]
    wrong = [(found != y)[partition.train_rows(client)].mean() for client in range(3)]
    assert wrong == pytest.approx([0, 0.25, 0.5], abs=0.03)
    assert wrong[0] == 0
    heldout = np.concatenate([partition.heldout_rows(client) for client in range(3)])
    assert (found == y)[heldout].all()
    distance = (found - y)[found != y] % 10
    assert np.bincount(distance, minlength=10)[1:] / len(distance) == pytest.approx(1 / 9, abs=0.03)
    all_wrong = shifted("label_noise", {"y": y}, partition, strength=1.0)["y"]
    assert (all_wrong != y)[partition.train_rows(2)].all()


def test_what_is_mapped_for_this_run_is_changed_in_its_file_and_anything_else_copied(tmp_path: Path) -> None:
    partition = shared_out([0, 1], 2)
    mapped = new_column(tmp_path, "train", "x", (2, 1, 3, 3), np.uint8)
    mapped[...] = 7
    seen = shifted("colour", {"x": mapped}, partition, strength=1.0)["x"]
    assert seen is mapped
    assert not (np.load(tmp_path / "train.x..npy") == 7).all()
    frozen = np.full((2, 1, 3, 3), 7, np.uint8)
    frozen.flags.writeable = False
    assert shifted("colour", {"x": frozen}, partition, strength=1.0)["x"] is not frozen
    assert (frozen == 7).all()


def test_none_is_the_same_columns() -> None:
    columns = {"x": GREY}
    assert shifted("none", columns, shared_out([0] * 9, 1)) is columns


def test_the_partition_counts_the_labels_that_clients_have(launch: Launch) -> None:
    words = ("num_rounds=1", "num_clients=2", "partition=pathological", "partition.classes_per_client=5")
    plain, swapped = (
        {(row["client"], row["label"]): row["samples"] for row in table(launch(*words, *more), "partition")}
        for more in ((), ("shift=labels",))
    )
    labels = {client: sorted(label for number, label in plain if number == client) for client in "01"}
    found = {client: sorted(label for number, label in swapped if number == client) for client in "01"}
    assert found["0"] == labels["0"]
    assert found["1"] != labels["1"]
    assert sorted(plain.values()) == sorted(swapped.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("shift=noise", "shift.strength=-1"), r"shift\.strength=-1: must be 0 or more"),
        (("shift=noise", "shift.strength=inf"), r"shift\.strength=inf: must be 0 or more"),
        (("shift=rotation", "shift.angles=[]"), r"shift\.angles=\[\]: must be finite numbers, one or more"),
        (("shift=colour", "shift.strength=2"), r"shift\.strength=2: must be from 0 to 1"),
        (("shift=blur", "shift.sigma=-1"), r"shift\.sigma=-1: must be 0 or more"),
        (("shift=labels", "shift.groups=11"), r"shift\.groups=11: must be from 1 to 10, the number of classes"),
        (("shift=label_noise", "shift.strength=1.5"), r"shift\.strength=1\.5: must be from 0 to 1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(refused: Callable[..., str], words: tuple[str, ...], message: str) -> None:
    assert re.search(message, refused(*words))


def test_data_that_a_shift_cannot_work_on_is_refused() -> None:
    partition = shared_out([0, 0], 1)
    wish = "shift: this one needs images, a column x of uint8 .*, and the data has tokens, y; use shift=none"
    with pytest.raises(ConfigError, match=wish):
        shifted("blur", {"y": np.array([0, 1]), "tokens": np.array([[0], [1]])}, partition, sigma=1.0)
    with pytest.raises(ConfigError, match="shift: this one needs a class for each sample"):
        shifted("labels", {"y": np.array([0.5, 1.5])}, partition, groups=1)
