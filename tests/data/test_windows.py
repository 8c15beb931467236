"""Texts become windows as in LEAF, whether from one's own texts or from LEAF's files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import compose
from hostile import refusal

from fl_bench.build import build
from fl_bench.data.arrays import FederatedData, Windows
from fl_bench.data.characters import Sampling, next_characters
from fl_bench.data.leaf import leaf_characters
from fl_bench.data.speakers import speeches
from fl_bench.deployment.shares import form_of, take
from fl_bench.tasks.base import Task

HOW = Sampling(" abc", length=2, stride=3, test_stride=1)


def test_samples_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    data = next_characters({"one": "ab\n \ncabcabc", "two": "ab", "three": "cccccczccccc"}, HOW)
    # "ab cabcabc" has 8 samples, of which the first 6 are to train, from 0 and 3; to test is the one from 6 + 1.
    # The other has 10: to train are those from 0, 3 and 6, to test that from 9.
    text = data.train["text"][np.arange(5)].tolist()
    assert text == [[1, 2, 0], [3, 1, 2], [3, 3, 3], [3, 3, 3], [0, 3, 3]]
    assert data.test["text"][np.arange(2)].tolist() == [[1, 2, 3], [3, 3, 3]]
    assert (data.train["y"].tolist(), data.test["y"].tolist()) == ([0, 2, 3, 3, 3], [3, 3])
    assert (data.train["source"].tolist(), data.sources) == ([0, 0, 1, 1, 1], ("one", "three"))
    assert data.classes == ("space", "a", "b", "c")
    said = capsys.readouterr().err
    assert "data: 1 of 3 sources are too short for samples, and are left out" in said
    assert "data: characters that are not in task.alphabet become ' ': z" in said
    assert "no source has a text of about 12 characters" in refusal(lambda: next_characters({"two": "ab"}, HOW))


def test_training_and_test_samples_of_a_source_share_one_character_at_most() -> None:
    data = next_characters({"one": "abc" * 50}, Sampling(" abc", length=10, stride=1, test_stride=1))
    train, test = data.train["text"].starts, data.test["text"].starts
    assert train.tolist() == list(range(112))  # 0.8 of 150 - 10
    assert test[0] == train[-1] + 10


def test_windows_are_stored_once_and_a_site_gets_its_own(tmp_path: Path) -> None:
    data = next_characters(speeches(), Sampling(" abcdefghijklmnopqrstuvwxyz", 80, 1, 1))
    data.save(tmp_path)
    opened = FederatedData.open(tmp_path).train["text"]
    assert isinstance(opened, Windows)
    assert sum(array.nbytes for array in vars(opened).values()) < 10 * len(opened) + 250_000  # not 81 bytes for each
    rows = np.array([5, 100_000])
    site = take(opened, rows)
    assert site.tolist() == data.train["text"][rows].tolist() == opened[rows].tolist()
    assert form_of({"text": site}) == form_of({"text": opened}) == {"text": ["uint8", [81]]}


def test_each_speaker_has_words_of_its_own() -> None:
    said = {name: set(text.lower().replace(",", " ").split()) for name, text in speeches().items()}
    assert len(said) == 10
    assert all(name in words for name, words in said.items() if name not in ("sir", "soft"))
    assert len(set.union(*said.values())) > 1.5 * max(map(len, said.values()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """LEAF's form, with texts of two characters: r1 has three to train and one to test, r0 one to train."""
    halves = {
        "train": {"r1": {"x": ["ab", "bc", "ca"], "y": ["c", "a", " "]}, "r0": {"x": ["cc"], "y": ["c"]}},
        "test": {"r1": {"x": ["b "], "y": ["a"]}},
    }
    for half, users in halves.items():
        write(tmp_path / half / "all.json", users)
    return tmp_path


def write(file: Path, users: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    sizes = [len(user["y"]) for user in users.values()]
    file.write_text(json.dumps({"users": [*users], "num_samples": sizes, "user_data": users}))


def test_the_files_of_leaf(root: Path) -> None:
    data = leaf_characters(root, str(root), HOW._replace(stride=2))
    assert data.train["text"].tolist() == [[1, 2, 3], [3, 1, 0], [3, 3, 3]]
    assert (data.train["y"].tolist(), data.train["source"].tolist()) == ([3, 0, 3], [1, 1, 0])
    assert (data.test["text"].tolist(), data.sources) == ([[2, 0, 1]], ("r0", "r1"))
    assert data.classes == ("space", "a", "b", "c")


@pytest.mark.parametrize(
    ("user", "line"),
    [
        ({"x": ["abc"], "y": ["a"]}, "r1 must have texts of task.length=2 characters in x, and one character in y"),
        ({"x": ["ab"], "y": ["ca"]}, "r1 must have texts of task.length=2 characters in x, and one character in y"),
        ({"x": ["ab"], "y": ["z"]}, "r1 has 'z', which is not in task.alphabet"),
        ({"x": [[0.5, 1.0]], "y": ["a"]}, "r1 must have texts of task.length=2 characters in x"),
        ({"x": ["ab"], "y": []}, "r1 has 1 examples and 0 labels"),
    ],
)
def test_what_is_wrong_with_leafs_texts_is_one_line(root: Path, user: dict[str, Any], line: str) -> None:
    write(root / "train" / "all.json", {"r1": user})
    said = refusal(lambda: leaf_characters(root, str(root), HOW))
    assert said.startswith(f"data.root={root}: train/all.json: ")
    assert line in said


def test_a_saved_data_set(tmp_path: Path) -> None:
    import datasets

    rows = {"who": ["b", "a", "b"], "line": ["the first", "alone " * 30, "words " * 30], "label": [0, 0, 0]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    words = ("task=characters", "data=disk", f"data.root={tmp_path / 'saved'}", "data.text=line", "task.length=20")
    cfg = compose(*words, "data.client=who")
    data = build(cfg.task, Task).load(cfg.data, tmp_path)
    assert data.sources == ("a", "b")
    first = data.train["text"][np.flatnonzero(data.train["source"] == 1)[:1]][0]
    assert "".join(cfg.task.alphabet[number] for number in first) == "the first words words"
    cfg = compose(*words)
    said = refusal(lambda: build(cfg.task, Task).load(cfg.data, tmp_path))
    assert said == "data.client=null: must name a column: of texts, and of who says each"
