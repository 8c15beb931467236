"""A site's folder from any config, with the clients that somebody names, or from one client's own file alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import compose
from PIL import Image

from fl_bench import cli, commands
from fl_bench.data.partition import UNSEEN, Partition
from fl_bench.deployment.shares import Held
from fl_bench.errors import ConfigError
from fl_bench.runs.share import share_out, share_own

TABLE = pd.DataFrame(
    {
        "age": [30.0, 40, 50, 60, 70, None, 90, 20],
        "sex": ["f", "m", "f", "m", "m", "f", "f", "m"],
        "ill": ["no", "yes", "no", "no", "yes", "no", "yes", "no"],
    }
)
WORDS = ("task=tabular", "data=csv", "data.label=ill", "partition.holdout=0.25")
TEXTS = pd.DataFrame({"body": ["good film", "bad film", "good good", "so bad"], "liked": [1, 0, 1, 0]})


@pytest.fixture
def all_rows(tmp_path: Path) -> Path:
    """A folder of files with the rows of two hospitals, and of a test set."""
    folder = tmp_path / "all"
    folder.mkdir()
    for name, rows in {"a": slice(0, 4), "b": slice(4, 7), "test": slice(7, 8)}.items():
        TABLE[rows].to_csv(folder / f"{name}.csv", index=False)
    return folder


def shared(folder: Path, sites: Mapping[str, Sequence[int]], *words: str) -> dict[str, list[int]]:
    return share_out(compose(*words), folder, sites)


def columns(folder: Path) -> dict[str, Any]:
    return {name: column.tolist() for name, column in Held.open(folder).data.train.items()}


def test_a_site_has_the_clients_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("task=mnist", "num_clients=5")
    assert shared(tmp_path / "x", {"a": [0, 3], "b": [4]}, *words) == {"a": [0, 3], "b": [4]}
    assert "--sites: no site has 2 of the 5 clients; the first is 1" in capsys.readouterr().err
    assert list(Held.open(tmp_path / "x" / "a").holdings()) == [0, 3]
    assert shared(tmp_path / "y", {"a": [], "b": []}, *words) == {"a": [0, 1, 2], "b": [3, 4]}
    for sites, why in (
        ({"a": [5]}, "--sites a=5: the run has clients 0 to 4"),
        ({"a": [0], "b": [1, 0]}, "--sites b=0: is a client of a"),
        (dict.fromkeys("abcdef", ()), "--sites: 6 are more than the run's 5 clients"),
    ):
        with pytest.raises(ConfigError, match=why):
            shared(tmp_path / "z", sites, *words)


def test_the_command_takes_the_words_of_a_run(
    all_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("share", *WORDS, "data.root=all", "num_clients=3", "shares", "--sites", "a=0-1,b=2")
    assert cli.dispatch(words) == 0
    assert capsys.readouterr().out == "shares/a: clients 0, 1\nshares/b: clients 2\n"
    assert sum(len(Held.open(tmp_path / "shares" / name).data.train["y"]) for name in "ab") == 7


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["shares"], "share: takes RUN_DIR FOLDER, or key=value words and FOLDER"),
        (["num_clients=3"], "share: takes RUN_DIR FOLDER, or key=value words and FOLDER"),
        (["a", "b", "c"], "share: takes RUN_DIR FOLDER, or key=value words and FOLDER"),
        (["num_clients=3", "."], r"\.: is there already"),
        (["num_clients=3", "new", "--sites", "a=0-1,b"], "--sites a=0-1,b: must be numbers and ranges, such as 0-3,7"),
        (["num_clients=3", "new", "--sites", "a=2-1"], "--sites a=2-1: must be numbers and ranges"),
        (["num_clients=3", "new", "--sites", "../a"], r"--sites \.\./a: must be NAME,NAME,\.\.\. or NAME=CLIENTS"),
        (["num_clients=3", "new", "--sites", "a,a"], "--sites a,a: must be NAME,NAME"),
        (
            ["num_clients=3", "new", "--as-client", "1"],
            "data.facts: with --as-client, is of data=csv, parquet and folder",
        ),
        ([*WORDS, "data.root=x", "num_clients=3", "n", "--as-client", "1"], "data.facts: with --as-client, must name"),
        (["num_clients=3", "new", "--as-client", "3"], "--as-client 3: must be from 0 to 2, as num_clients says"),
        (["partition=linear", "new", "--as-client", "1"], "partition: has no effect with --as-client"),
        (["nothing=1", "new"], "nothing: unknown key"),
    ],
)
def test_what_cannot_be_shared(words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=why):
        commands.call("share", words)
    assert list(tmp_path.iterdir()) == []


def test_a_hospital_alone_makes_of_its_rows_what_they_are_in_the_whole(all_rows: Path, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("row,client\n" + "".join(f"{row},{int(row > 3)}\n" for row in range(7)))
    partition = ("partition=file", f"partition.path={tmp_path / 'split.csv'}")
    shared(tmp_path / "whole", {"a": [0], "b": [1]}, *WORDS, f"data.root={all_rows}", "num_clients=2", *partition)
    facts = f"data.facts={tmp_path / 'whole' / 'a' / 'facts.json'}"
    own = compose(*WORDS, f"data.root={all_rows / 'b.csv'}", "num_clients=2", facts)
    assert share_own(own, tmp_path / "b", 1)[:2] == (3, 0)  # a quarter of three is none
    mine, theirs = columns(tmp_path / "b"), columns(tmp_path / "whole" / "b")
    assert sorted(map(str, zip(mine["x"], mine["y"], strict=True))) == sorted(
        map(str, zip(theirs["x"], theirs["y"], strict=True))
    )
    assert mine["y"] == [1, 0, 1]  # as in the file
    mean, std = np.mean([30, 40, 50, 60, 70, 90]), np.std([30, 40, 50, 60, 70, 90])
    assert mine["x"][0] == pytest.approx([(70 - mean) / std, 0, 0, 1])  # the age, whether it is missing, f, m
    assert mine["x"][1] == [0, 1, 1, 0]
    assert (tmp_path / "b" / "facts.json").read_bytes() == (tmp_path / "whole" / "a" / "facts.json").read_bytes()
    assert Held.open(tmp_path / "b").data.classes == ("no", "yes")


def test_the_last_rows_are_held_out_and_ids_are_those_of_the_run(all_rows: Path, tmp_path: Path) -> None:
    facts = {"classes": ["no", "yes"], "columns": {"sex": {"values": ["f", "m"], "usual": "f", "missing": False}}}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    words = (*WORDS, f"data.root={all_rows / 'a.csv'}", f"data.facts={tmp_path / 'facts.json'}", "num_clients=5")
    assert share_own(compose(*words), tmp_path / "two", 2)[:2] == (3, 1)
    part = Partition.open(tmp_path / "two")
    assert (part.train_rows(2).tolist(), part.heldout_rows(2).tolist()) == ([0, 1, 2], [3])
    assert part.train_sizes.tolist() == [0, 0, 3, 0, 0]
    assert share_own(compose(*words, "partition.unseen=0.4"), tmp_path / "four", 4)[:2] == (3, 1)
    assert list(Held.open(tmp_path / "four").holdings()) == [4]
    assert Partition.open(tmp_path / "four", UNSEEN).train_sizes.tolist() == [0, 3]


FACTS: dict[str, Any] = {"classes": ["no", "yes"], "columns": {"age": {"mean": 50.0, "std": 10.0, "missing": False}}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": ["no", "maybe"]}, "data.label=ill: has yes, which is no class of data.facts"),
        ({"columns": {"ages": FACTS["columns"]["age"]}}, r"data.facts: states a column ages, .*; did you mean age\?"),
        ({"columns": {"sex": FACTS["columns"]["age"]}}, "data.facts: states numbers in the column sex, and here"),
        ({"columns": {"age": {"mean": 1}}}, r"data.facts=.*facts.json: columns.age.Numbers.std: Field required"),
        ({"columns": None}, "data.facts: states no columns, which task=tabular needs"),
        ({"class": []}, "data.facts=.*: class: Extra inputs are not permitted"),
    ],
)
def test_facts_that_do_not_fit(changes: dict[str, Any], why: str, all_rows: Path, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps(FACTS | changes))
    words = (f"data.root={all_rows / 'a.csv'}", f"data.facts={tmp_path / 'facts.json'}", "num_clients=2")
    with pytest.raises(ConfigError, match=why):
        share_own(compose(*WORDS, *words), tmp_path / "own", 0)


def test_what_is_odd_in_the_rows_is_said(all_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns_ = {"sex": {"values": ["f", "x"], "usual": "f", "missing": False}}
    (tmp_path / "facts.json").write_text(json.dumps({"classes": ["no", "yes"], "columns": columns_}))
    words = (f"data.root={all_rows}", f"data.facts={tmp_path / 'facts.json'}", "num_clients=2")
    share_own(compose(*WORDS, *words), tmp_path / "own", 0)
    said = capsys.readouterr().err
    assert "states 2 values of the column sex; 4 rows have others, such as 'm': none of these for a model" in said
    assert "data.facts: does not state these columns, which are left out: age" in said
    assert "1 rows are of a test set, and nobody's here" in said
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    with pytest.raises(ConfigError, match="states that none is missing in the column age, and here 1 are"):
        share_own(compose(*WORDS, *words), tmp_path / "again", 0)


def test_texts_have_the_stated_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    TEXTS.to_csv(tmp_path / "all" / "train.csv", index=False)
    TEXTS[:1].to_csv(tmp_path / "all" / "test.csv", index=False)
    TEXTS[2:].to_csv(tmp_path / "mine.csv", index=False)
    words = ("task=text", "data=csv", "data.text=body", "data.label=liked", "partition.holdout=0", "num_clients=2")
    shared(tmp_path / "whole", {"a": [0, 1]}, *words, f"data.root={tmp_path / 'all'}")
    facts = tmp_path / "whole" / "a" / "facts.json"
    assert json.loads(facts.read_text()) == {
        "classes": ["0", "1"],
        "vocabulary": ["?", "good", "bad", "film", "so"],
    }
    share_own(compose(*words, f"data.root={tmp_path / 'mine.csv'}", f"data.facts={facts}"), tmp_path / "own", 1)
    held = Held.open(tmp_path / "own").data.train
    assert held["tokens"].flat.tolist() == [1, 1, 4, 2]
    assert held["y"].tolist() == [1, 0]
    assert (tmp_path / "own" / "vocabulary.json").read_text() == '["?", "good", "bad", "film", "so"]'


def test_images_have_the_stated_classes_and_channels(tmp_path: Path) -> None:
    colours = {"all/train/cat": "red", "all/train/dog": "grey", "all/test/dog": "grey", "own/dog": "grey"}
    for number, (folder, colour) in enumerate(colours.items()):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L" if colour == "grey" else "RGB", (4, 4), colour).save(tmp_path / folder / f"{number}.png")
    words = ("task=images", "data=folder", "partition.holdout=0", "num_clients=2")
    shared(tmp_path / "whole", {"a": [0, 1]}, *words, f"data.root={tmp_path / 'all'}")
    facts = tmp_path / "whole" / "a" / "facts.json"
    assert json.loads(facts.read_text()) == {"classes": ["cat", "dog"], "colours": True}
    own = (*words, f"data.root={tmp_path / 'own'}", f"data.facts={facts}")
    assert share_own(compose(*own), tmp_path / "mine", 1)[:2] == (1, 0)
    held = Held.open(tmp_path / "mine").data
    assert (held.classes, held.train["y"].tolist(), held.train["x"].shape) == (("cat", "dog"), [1], (1, 3, 4, 4))
    for stated, root, why in (
        ({"classes": ["cat"], "colours": True}, "own", "has dog, which is no class of data.facts"),
        ({"classes": ["cat", "dog"]}, "all/train", "data.facts: does not state that there are colours"),
    ):
        facts.write_text(json.dumps(stated))
        with pytest.raises(ConfigError, match=why):
            share_own(compose(*own, f"data.root={tmp_path / root}"), tmp_path / "again", 1)


def test_a_run_needs_test_rows(all_rows: Path, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    words = (*WORDS, f"data.root={all_rows / 'a.csv'}", f"data.facts={tmp_path / 'facts.json'}", "num_clients=2")
    with pytest.raises(ConfigError, match="these rows have no test set, and a run needs one"):
        shared(tmp_path / "x", {"a": []}, *words)
    TABLE[:0].to_csv(all_rows / "a.csv", index=False)
    with pytest.raises(ConfigError, match="data: has no rows that could be a client's"):
        share_own(compose(*words), tmp_path / "y", 1)
