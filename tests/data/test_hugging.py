"""Data sets of the library datasets, from a folder or by name, and what is wrong with them in one line."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from conftest import Launch, table
from hostile import refusal
from PIL import Image

from fl_bench.data import hugging
from fl_bench.data.arrays import FederatedData


def picture(value: int, side: int = 28) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("L", (side, side), value).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def digits(count: int, first: int = 0) -> datasets.Dataset:
    """Image k has the value first + k, and is of class "odd" or "even" and of person 20 or 3."""
    rows = {
        "picture": [picture(first + k) for k in range(count)],
        "digit": [k % 2 for k in range(count)],
        "writer": [20 if k < count // 2 else 3 for k in range(count)],
    }
    kinds = {"picture": datasets.Image(), "digit": datasets.ClassLabel(names=["even", "an odd one", "none"])}
    return datasets.Dataset.from_dict(rows, features=datasets.Features({**kinds, "writer": datasets.Value("int32")}))


def patients(count: int = 40) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "age": np.arange(count) * 1.0,
            "sex": ["f", "m"] * (count // 2),
            "hospital": ["north"] * (count // 2) + ["south"] * (count - count // 2),
            "label": [k % 2 for k in range(count)],
        },
    ).cast_column("sex", datasets.ClassLabel(names=["m", "f"]))


def images(root: Path, tmp_path: Path, **given: Any) -> FederatedData:
    options = {"image": None, "label": "digit", "client": "writer", "size": None} | given
    return hugging.images_of(hugging.on_disk(str(root)), tmp_path, **options)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What datasets makes goes to a cache of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_images_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits(40).save_to_disk(tmp_path / "one")
    data = images(tmp_path / "one", tmp_path)
    assert (data.classes, data.sources) == (("even", "an odd one", "none"), ("3", "20"))
    assert (data.train["x"].shape, data.train["x"].dtype, data.test["x"].shape) == (
        (36, 1, 28, 28),
        "u1",
        (4, 1, 28, 28),
    )
    values = data.train["x"][:, 0, 5, 5]
    assert (values % 2 == data.train["y"]).all()
    assert ((values < 20) == data.train["source"]).all()
    assert "has no test set of its own: every tenth row is taken" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_split_is_the_test_set(tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]) -> None:
    datasets.DatasetDict({"train": digits(6), split: digits(4, first=100)}).save_to_disk(tmp_path / "two")
    data = images(tmp_path / "two", tmp_path, client=None)
    assert data.train["x"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.test["x"][:, 0, 0, 0].tolist() == [100, 101, 102, 103]
    assert "source" not in data.train
    assert ("validation is the test set" in capsys.readouterr().err) == (split == "validation")


def test_a_column_may_have_the_bytes_of_files(tmp_path: Path) -> None:
    rows = {"png": [picture(k)["bytes"] for k in range(20)], "label": ["b", "a"] * 10}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "bytes")
    data = images(tmp_path / "bytes", tmp_path, image="png", label="label", client=None)
    assert data.classes == ("a", "b")
    assert (data.train["x"][:, 0, 0, 0] % 2 == 1 - data.train["y"]).all()


def test_tables_have_the_columns_by_name(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": patients(), "test": patients(10)}).save_to_disk(tmp_path / "table")
    splits = hugging.on_disk(str(tmp_path / "table"))
    data = hugging.rows_of(splits, "label", "hospital", None)
    assert (data.classes, data.sources, data.train["x"].shape) == (("0", "1"), ("north", "south"), (40, 3))
    mean, std = np.arange(40).mean(), np.arange(40).std()
    assert data.train["x"][:, 0] == pytest.approx((np.arange(40) - mean) / std)
    assert data.train["x"][:2, 1:].tolist() == [[1, 0], [0, 1]]  # sex: f, m
    assert hugging.rows_of(splits, "sex", None, ["age"]).classes == ("m", "f")


def test_columns_of_text_come_row_by_row(tmp_path: Path) -> None:
    splits = hugging.Splits("", [patients(2500)])
    assert list(splits.column("hospital")) == ["north"] * 1250 + ["south"] * 1250


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"label": "digits"}, "data.label=digits: the data has no such column; did you mean digit?"),
        ({"client": "writers"}, "data.client=writers: the data has no such column; did you mean writer?"),
        ({"image": "pic"}, "data.image=pic: the data has no such column; "),
        ({"image": "writer"}, "data.image=writer: row 0 has no image, nor the bytes of a file of one"),
    ],
)
def test_what_is_wrong_with_columns(tmp_path: Path, given: dict[str, Any], line: str) -> None:
    digits(40).save_to_disk(tmp_path / "one")
    assert refusal(lambda: images(tmp_path / "one", tmp_path, **given)).startswith(line)


def test_what_is_wrong_with_rows(tmp_path: Path) -> None:
    def said(name: str, data: datasets.Dataset | datasets.DatasetDict) -> str:
        data.save_to_disk(tmp_path / name)
        return refusal(lambda: images(tmp_path / name, tmp_path)).removeprefix(f"data.root={tmp_path / name}: ")

    good = digits(40)
    small = datasets.Dataset.from_dict(
        {**good[:0], "picture": [picture(0, 9)], "digit": [0], "writer": [3]}, good.features
    )
    assert said("size", datasets.concatenate_datasets([good, small])) == (
        "row 40 is 9x9 and row 0 is 28x28; give data.size=N, to which all are cut and resized"
    )
    bad = good.cast_column("picture", datasets.Image(decode=False)).map(
        lambda row: {"picture": {"bytes": b"no", "path": None}}
    )
    assert said("bytes", bad.cast_column("picture", datasets.Image())).startswith("row 0 is not a readable image (")
    assert said("split", datasets.DatasetDict({"test": good})) == "has no split train, but test"
    unknown = good.map(lambda row: {"digit": -1})
    assert (
        said("labels", unknown)
        == "data.label=digit: 40 rows have no value there (in CSV also None, NA and the like); remove them"
    )
    assert "data.image=null: name the column of images; those known to have some: none of" in said("none", patients())


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be loaded (" in refusal(lambda: hugging.on_disk(str(tmp_path)))
    assert refusal(lambda: hugging.on_the_hub(None, "/nowhere", None, None)) == "data.root=/nowhere: is not a folder"
    for name, root in ((None, None), ("a/b", "/tmp")):
        said = refusal(partial(hugging.on_the_hub, name, root, None, None))
        assert "give either data.dataset=OWNER/NAME or data.root=FOLDER" in said
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "set").mkdir(parents=True)
    for wrong in ("parquet", "pandas", "a/b/c", "/etc", "my/set"):
        assert "must be OWNER/NAME" in refusal(partial(hugging.on_the_hub, wrong, None, None, None))


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("fl_bench.data.hugging.use_cache_when_offline", lambda: None)
    said = refusal(lambda: hugging.on_the_hub("flwrlabs/nothing-of-this-name", None, None, None))
    assert said.startswith("data.dataset=flwrlabs/nothing-of-this-name: cannot be loaded (")
    assert "\n" not in said


def test_the_tasks_read_a_folder_of_files(launch: Launch, refused: Callable[..., str], tmp_path: Path) -> None:
    for name, data in (("images", digits(40)), ("table", patients())):
        (tmp_path / name).mkdir()
        data.to_parquet(tmp_path / name / "train.parquet")
    words = ("data=hub", "partition=natural", "num_clients=2", "num_rounds=1", "local.steps=1")
    some = ("task=images", f"data.root={tmp_path / 'images'}", "data.label=digit", "data.client=writer", "model=lenet5")
    rows = table(launch(*some, *words), "sources")
    assert [(row["client"], row["source"], row["samples"]) for row in rows] == [("0", "3", "18"), ("1", "20", "18")]
    other = ("task=tabular", f"data.root={tmp_path / 'table'}", "data.client=hospital")
    assert [row["source"] for row in table(launch(*other, *words), "sources")] == ["north", "south"]
    assert "data.size=8: should be None" in refused(*other, *words, "data.size=8")
    assert "data.features=['writer']: should be None" in refused(*some, *words, "data.features=[writer]")


def test_the_tasks_read_what_was_saved(launch: Launch, tmp_path: Path) -> None:
    digits(40).save_to_disk(tmp_path / "images")
    words = ("data=disk", "num_clients=2", "num_rounds=1", "local.steps=1")
    launch("task=images", f"data.root={tmp_path / 'images'}", "data.label=digit", "model=lenet5", *words)
    patients().save_to_disk(tmp_path / "table")
    launch("task=tabular", f"data.root={tmp_path / 'table'}", *words)
