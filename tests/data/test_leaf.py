"""LEAF's JSON files as they are, and what is wrong with them in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, table
from hostile import refusal

from fl_bench.data.leaf import leaf_images


def users(**given: dict[str, Any]) -> dict[str, Any]:
    """What a file of LEAF has, of users with their x and y."""
    return {"users": [*given], "num_samples": [len(one["y"]) for one in given.values()], "user_data": given}


def image(*pixels: float) -> list[float]:
    return [*pixels, *[1.0] * (4 - len(pixels))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of 2x2: f1 has two to train and one to test, f0 one to train, f2 one to test."""
    files = {
        "train/a.json": users(f1={"x": [image(0.0, 0.5), image(0.2)], "y": [3, 0]}),
        "train/b.json": users(f0={"x": [image()], "y": [1]}, f3={"x": [], "y": []}),
        "test/a.json": users(f1={"x": [image(1)], "y": [3]}, f2={"x": [image(0)], "y": [4]}),
    }
    for name, content in files.items():
        (tmp_path / "leaf" / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "leaf" / "data" / name).write_text(json.dumps(content))
    return tmp_path / "leaf"


def test_a_user_is_a_source_and_a_pixel_of_one_is_255(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = leaf_images(root.parent, str(root))
    assert data.train["x"].tolist() == [[[[0, 128], [255, 255]]], [[[51, 255], [255, 255]]], [[[255] * 2] * 2]]
    assert (data.train["y"].tolist(), data.train["source"].tolist()) == ([3, 0, 1], [1, 1, 0])
    assert (data.sources, data.classes) == (("f0", "f1"), ("0", "1", "2", "3", "4"))
    assert (data.test["x"].shape, data.test["y"].tolist()) == ((2, 1, 2, 2), [3, 4])
    said = capsys.readouterr().err
    assert "1 users are in train/ only, and 1 in test/ only, who are no clients" in said


def test_the_folder_data_may_be_named_itself(root: Path) -> None:
    assert len(leaf_images(root.parent, str(root / "data")).train["y"]) == 3


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (users(f={"x": ["To be"], "y": ["o"]}), "f has words in x; data=leaf reads images in numbers"),
        (users(f={"x": [["1", "2", "NO_QUERY", "n", "a tweet"]], "y": [0]}), "f has words in x; data=leaf reads"),
        (users(f={"x": [image()], "y": [1, 2]}), "is not of LEAF's form (f has 1 examples and 2 labels)"),
        (users(f={"x": [image(7)], "y": [1]}), "(f must have rows of numbers from 0 to 1 in x)"),
        (users(f={"x": [image(float("nan"))], "y": [1]}), "(f must have rows of numbers from 0 to 1 in x)"),
        (users(f={"x": [image()], "y": [-1]}), "(f must have whole numbers from 0 in y)"),
        (users(f={"x": [image()], "y": [0.5]}), "(f must have whole numbers from 0 in y)"),
        (users(f={"x": [image(), [1.0]], "y": [1, 2]}), "is not of LEAF's form (f has rows of different lengths in x)"),
        ({"users": ["f"]}, "has no 'user_data'; LEAF's files have users and user_data with x and y"),
        ([1], "is not of LEAF's form (list indices must be integers"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(root: Path, content: Any, line: str) -> None:
    (root / "data" / "train" / "b.json").write_text(json.dumps(content))
    said = refusal(lambda: leaf_images(root.parent, str(root)))
    assert said.startswith(f"data.root={root}: train/b.json: ")
    assert line in said


def test_other_folders_and_sizes(root: Path) -> None:
    said = refusal(lambda: leaf_images(root.parent, str(root.parent)))
    assert "holds no train/*.json and test/*.json, which LEAF's preprocess.sh writes; train/ is lacking" in said
    (root / "data" / "train" / "b.json").write_text(json.dumps(users(f={"x": [[1.0] * 5], "y": [1]})))
    assert "has rows of [4, 5] numbers; one size is needed" in refusal(lambda: leaf_images(root.parent, str(root)))
    (root / "data" / "train" / "b.json").write_text("{")
    assert "train/b.json: is not of LEAF's form (Expecting" in refusal(lambda: leaf_images(root.parent, str(root)))


def test_the_task_images_trains_on_them(launch: Launch, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for half, count in (("train", 4), ("test", 2)):
        (tmp_path / half).mkdir()
        people = {
            name: {"x": rng.random((count, 784)).tolist(), "y": rng.integers(62, size=count).tolist()} for name in "ab"
        }
        (tmp_path / half / "all_data_0.json").write_text(json.dumps(users(**people)))
    words = ("task=images", "data=leaf", f"data.root={tmp_path}", "model=lenet5", "partition=natural", "num_clients=2")
    rows = table(launch(*words, "num_rounds=1", "local.steps=1"), "sources")
    assert [(row["client"], row["source"], row["samples"]) for row in rows] == [("0", "a", "4"), ("1", "b", "4")]
