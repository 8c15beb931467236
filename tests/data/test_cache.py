"""What is kept in data.cache is what a run would have prepared, and nobody changes it."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, compose, digests, long
from PIL import Image

from fl_bench import rng
from fl_bench.data import cache, labelled
from fl_bench.data.arrays import FederatedData, new_column
from fl_bench.data.cache import MAKING, kept, key_of
from fl_bench.errors import ConfigError
from fl_bench.storage import run_json
from fl_bench.tasks import images as task
from fl_bench.tasks.base import Task

SMALL = ("task=images", "data=folder", "model=logistic", "num_rounds=2", "num_clients=3", "local.steps=2")


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """The words for a run on 60 grey images of 8x8 in folders of two classes, and a cache that is not there yet."""
    for number in range(60):
        file = tmp_path / "drawn" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(256, size=(8, 8), dtype=np.uint8)).save(file)
    return *SMALL, f"data.root={tmp_path / 'drawn'}", f"data.cache={tmp_path / 'cache'}"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each reading of a folder of images."""
    seen: list[str] = []
    read = labelled.image_folders

    def counted(folder: Path, root: str, *rest: Any) -> FederatedData:
        seen.append(root)
        return read(folder, root, *rest)

    monkeypatch.setattr(task, "image_folders", counted)
    return seen


@pytest.fixture
def entries(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """The files in the cache and what is in them."""

    def look() -> dict[str, str]:
        files = (file for file in (tmp_path / "cache").rglob("*") if file.is_file())
        return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    return look


@pytest.mark.parametrize("shift", ["none", "noise", "label_noise"])
def test_a_run_is_the_same_with_it_and_the_second_reads_nothing(
    launch: Launch, words: tuple[str, ...], loads: list[str], entries: Callable[[], dict[str, str]], shift: str
) -> None:
    without, first = launch(*words, "data.cache=null", f"shift={shift}"), launch(*words, f"shift={shift}")
    written = entries()
    assert len(loads) == 2
    assert len([name for name in written if name.endswith(".npy")]) == 4
    second = launch(*words, f"shift={shift}")
    assert len(loads) == 2
    assert digests(first) == digests(second) == digests(without)
    records = [run_json.read(folder)["data"] for folder in (without, first, second)]
    assert records[0] == records[1] == records[2]
    assert entries() == written


@pytest.mark.usefixtures("quick_judge")
@pytest.mark.parametrize("name", [pytest.param(name, marks=long) for name in ("dcgan", "imdb", "sam")] + ["text"])
def test_what_tasks_make_of_their_data_is_kept_too(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    small = f"task={name}", "num_rounds=1", "local.steps=1", "num_clients=2"
    without, first = launch(*small), launch(*small, f"data.cache={tmp_path / 'cache'}")
    monkeypatch.setattr(Task, "load", lambda task, data, folder: pytest.fail("loads again"))
    second = launch(*small, f"data.cache={tmp_path / 'cache'}")
    assert digests(first) == digests(second) == digests(without)
    records = [run_json.read(folder)["data"] for folder in (without, first, second)]
    assert records[0] == records[1] == records[2]


def test_what_the_data_do_not_depend_on_shares_them(launch: Launch, words: tuple[str, ...], loads: list[str]) -> None:
    for word in ("seed=0", "seed=1", "model=mlp", "partition=dirichlet", "task.label_smoothing=0.1"):
        launch(*words, word)
    assert len(loads) == 1
    launch(*words, "data.size=4")
    assert len(loads) == 2


def test_a_file_that_has_changed_is_read_anew(
    launch: Launch, words: tuple[str, ...], loads: list[str], tmp_path: Path
) -> None:
    launch(*words)
    Image.new("L", (8, 8), 7).save(tmp_path / "drawn" / "class0" / "0.png")
    launch(*words)
    assert len(loads) == 2


def cut(entry: Path) -> None:
    os.truncate(entry / "train.x..npy", 1000)


def turn_a_bit(entry: Path) -> None:
    content = bytearray((entry / "train.x..npy").read_bytes())
    content[-1] ^= 1
    (entry / "train.x..npy").write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        turn_a_bit,
        lambda entry: (entry / "test.y..npy").unlink(),
        lambda entry: (entry / "train.source..npy").write_bytes(b"more"),
        lambda entry: (entry / cache.DIGESTS).unlink(),
        lambda entry: (entry / cache.DIGESTS).write_text("{"),
    ],
)
def test_a_damaged_entry_is_made_anew_with_a_note(
    launch: Launch,
    words: tuple[str, ...],
    loads: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    first = launch(*words)
    (entry,) = (tmp_path / "cache").iterdir()
    damage(entry)
    capsys.readouterr()
    again = launch(*words)
    assert f"note: {entry}: is damaged, and is made anew" in capsys.readouterr().err
    assert digests(again) == digests(first)
    assert len(loads) == 2
    assert list((tmp_path / "cache").iterdir()) == [entry]
    launch(*words)
    assert len(loads) == 2


def loaded(folder: Path) -> FederatedData:
    """Columns of every kind of place: in a file already, and in memory; and what a task keeps beside them."""
    big = new_column(folder, "train", "big", (3,), np.uint8)
    big[:] = [7, 8, 9]
    (folder / "pretrained").mkdir()
    (folder / "pretrained" / "config.json").write_text("{}")
    (folder / "elsewhere").symlink_to("/")
    return FederatedData({"big": big, "y": np.arange(3)}, {"big": big[:1].copy(), "y": np.arange(1)}, ("a", "b"))


def load_of(place: Path, folder: str, load: Callable[[Path], FederatedData] = loaded, seed: int = 0) -> FederatedData:
    (place / folder).mkdir()
    rng.seed_torch(seed, "load")
    return kept(place / "cache", "key", seed, place / folder, load)


def never(folder: Path) -> FederatedData:
    raise AssertionError("is called")


def test_what_a_task_keeps_beside_its_columns_comes_back(tmp_path: Path) -> None:
    load_of(tmp_path, "a")
    data = load_of(tmp_path, "b", never)
    assert (data.train["big"].tolist(), data.test["y"].tolist(), data.classes) == ([7, 8, 9], [0], ("a", "b"))
    assert (tmp_path / "b" / "pretrained" / "config.json").read_text() == "{}"
    assert os.readlink(tmp_path / "b" / "elsewhere") == "/"
    assert not (tmp_path / "b" / cache.DIGESTS).exists()
    with pytest.raises(ValueError, match="read-only"):
        data.train["big"][0] = 1


def drawing(folder: Path) -> FederatedData:
    return FederatedData({"y": torch.randperm(100).numpy()}, {"y": np.arange(1)}, ("a",))


def test_data_that_draw_from_the_seed_are_those_of_the_seed(tmp_path: Path) -> None:
    first = load_of(tmp_path, "a", drawing, seed=1).train["y"].tolist()
    assert load_of(tmp_path, "b", drawing, seed=2).train["y"].tolist() != first
    assert load_of(tmp_path, "c", never, seed=1).train["y"].tolist() == first
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_ends_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def stopped(folder: Path) -> FederatedData:
        loaded(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_of(tmp_path, "a", stopped)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_run_has_left_is_not_taken_and_goes_after_a_day(tmp_path: Path) -> None:
    old, young = (tmp_path / "cache" / f"{MAKING}{name}" for name in ("old", "young"))
    for folder in (old, young):
        (folder / "new").mkdir(parents=True)
        loaded(folder / "new").save(folder / "new")
    os.utime(old, (1, 1))
    assert load_of(tmp_path, "a").train["big"].tolist() == [7, 8, 9]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {young.name, "key"}


def test_of_two_runs_at_once_the_first_to_be_done_is_kept(tmp_path: Path) -> None:
    def slower(folder: Path) -> FederatedData:
        load_of(tmp_path, "first")
        return FederatedData({"y": np.arange(5)}, {"y": np.arange(1)}, ("a",))

    data = load_of(tmp_path, "second", slower)
    assert data.train["big"].tolist() == [7, 8, 9]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_a_full_disk_is_one_line(
    refused: Callable[..., str],
    launch: Launch,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> FederatedData:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(task, "image_folders", full)
    launch(*words, exit_code=1)
    assert capsys.readouterr().err == f"fl-bench: {tmp_path / 'cache'}: No space left on device\n"
    (tmp_path / "file").touch()
    said = refused(*words, f"data.cache={tmp_path / 'file'}")
    assert said == f"fl-bench: data.cache={tmp_path / 'file'}: is no folder that can be used or made (File exists)\n"


def test_a_value_that_is_no_folder_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match=r"^data\.cache=3: must be a folder, or null$"):
        compose("data.cache=3")


def test_the_key_follows_the_files_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.csv").write_text("1")
    (tmp_path / "a" / "round").symlink_to(tmp_path / "a")  # a circle
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    about = {"data": {"parts": [str(tmp_path / "a")], "separator": "/", "other": str(tmp_path / "none")}}
    keys = [key_of(about)]
    (tmp_path / "a" / "x.csv").write_text("22")
    keys.append(key_of(about))
    os.utime(tmp_path / "a" / "x.csv", ns=(1, 1))
    keys.append(key_of(about))
    (tmp_path / "elsewhere" / "y.csv").touch()
    keys += [key_of(about), key_of({"data": {**about["data"], "separator": "."}})]
    assert len(set(keys)) == 5
    assert key_of(json.loads(json.dumps(about))) == keys[3]
