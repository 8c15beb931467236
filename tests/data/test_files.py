"""A table of one's own, and what is wrong with it in one line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Launch

from fl_bench.data.arrays import FederatedData
from fl_bench.data.files import options_of, table_of_files
from fl_bench.errors import ConfigError

TABLE = pd.DataFrame(
    {
        "age": np.arange(40.0),
        "sex": ["f", "m"] * 20,
        "hospital": np.repeat(["north", "south"], 20),
        "ill": np.tile(["no", "no", "no", "yes"], 10),
    }
)


def read(root: Path, kind: str = "csv", **given: Any) -> FederatedData:
    return table_of_files(kind, str(root), **({"label": "ill", "client": "hospital", "features": None} | given))[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    TABLE.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


def test_the_columns_have_their_meaning(file: Path) -> None:
    data = read(file)
    assert (data.classes, data.sources) == (("no", "yes"), ("north", "south"))
    assert data.train["x"].shape == (36, 3)  # age, and two of sex
    assert np.bincount(data.train["source"]).tolist() == [18, 18]
    assert len(data.test["y"]) == 4
    assert read(file, features=["age"]).train["x"].shape == (36, 1)
    assert "source" not in read(file, client=None).train


def test_parquet_is_the_same(file: Path) -> None:
    TABLE.to_parquet(file.with_suffix(".parquet"))
    one, other = read(file), read(file.with_suffix(".parquet"), "parquet")
    for name in one.train:
        assert (one.train[name] == other.train[name]).all()


def test_a_folder_may_have_a_test_file(tmp_path: Path) -> None:
    TABLE[:10].to_csv(tmp_path / "a.csv", index=False)
    TABLE[10:30].to_csv(tmp_path / "b.csv", index=False)
    TABLE[30:].to_csv(tmp_path / "test.csv", index=False)
    data = read(tmp_path, features=["age"])
    mean, std = np.arange(30).mean(), np.arange(30).std()
    assert data.train["x"][:, 0] == pytest.approx((np.arange(30) - mean) / std)
    assert data.test["x"][:, 0] == pytest.approx((np.arange(30, 40) - mean) / std)


def test_numbers_may_be_classes_and_clients(tmp_path: Path) -> None:
    table = TABLE.assign(ill=np.tile([0.0, 10.0, 2.0, 2.0], 10), hospital=np.repeat([10, 9], 20))
    table.to_csv(tmp_path / "a.csv", index=False)
    data = read(tmp_path)
    assert (data.classes, data.sources) == (("0", "2", "10"), ("9", "10"))


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        ({}, {"label": "il"}, r"data.label=il: the table has no such column; did you mean ill\?"),
        ({}, {"client": "hospitals"}, r"data.client=hospitals: .* did you mean hospital\?"),
        ({}, {"features": ["agee"]}, r"data.features=agee: .* did you mean age\?"),
        ({}, {"features": ["age", "ill"]}, r"data.features=\['age', 'ill'\]: must name columns other than the label"),
        ({}, {"features": []}, r"data.features=\[\]: must name columns"),
        ({"ill": "no"}, {}, "data.label=ill: must have from 2 to 100 different values, the classes, and has 1"),
        ({"ill": np.arange(40) * 1.5}, {}, r"data.label=ill: has fractions"),
        (
            {"ill": ["no"] * 38 + ["yes", None]},
            {},
            "data.label=ill: 1 rows have no value there \\(in CSV also None, NA",
        ),
        ({"hospital": ["north"] * 38 + [None] * 2}, {}, "data.client=hospital: 2 rows have no value there"),
        ({"hospital": [f"h{k}" for k in range(40)]}, {"client": None, "features": ["hospital"]}, "^$"),
    ],
)
def test_what_is_wrong_with_a_column_is_one_line(
    tmp_path: Path, change: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    TABLE.assign(**change).to_csv(tmp_path / "a.csv", index=False)
    if message == "^$":
        assert read(tmp_path, **given).train["x"].shape[1] == 36  # words of the training rows only
        return
    with pytest.raises(ConfigError, match=message) as raised:
        read(tmp_path, **given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("separator", "given", "message"),
    [
        (
            ";",
            {},
            "data.label=ill: the table has one column, age;sex;hospital;ill; data.separator says what is between",
        ),
        (
            ",",
            {"separator": ";"},
            "data.label=ill: the table has one column, age,sex,hospital,ill; data.separator says",
        ),
        (",", {"separator": "||"}, "data.separator=||: must be one sign, \\t for a tab, or \\s+ for spaces"),
        (",", {"encoding": "klingon"}, "(unknown encoding: klingon); data.encoding says how its text is stored, "),
        (",", {"encoding": "utf-16"}, "(UTF-16 stream does not start with BOM); data.encoding says how its text"),
        ("\t", {"separator": "\\t"}, None),
        (" ", {"separator": r"\s+"}, None),
    ],
)
def test_how_a_table_is_written(
    tmp_path: Path, separator: str, given: dict[str, str], message: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    TABLE.to_csv(tmp_path / "a.csv", index=False, sep=separator)

    def made() -> FederatedData:
        return read(tmp_path, **options_of("csv", given.get("separator"), given.get("encoding")))

    if message is None:
        assert made().train["x"].shape == (36, 3)
    else:
        with pytest.raises(ConfigError, match=re.escape(message)):
            made()
    assert not recwarn.list


def test_what_is_wrong_with_the_files_is_one_line(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.root=.*/nowhere: is neither a file nor a folder with files \*.csv"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"is neither a file nor a folder with files \*.parquet"):
        read(tmp_path, "parquet")
    with pytest.raises(ConfigError, match=r"mine.csv cannot be read as parquet \("):
        read(file, "parquet")
    TABLE[:0].to_csv(file, index=False)
    with pytest.raises(ConfigError, match=r"data.label=ill: must have from 2 to 100 different values, .* has 0"):
        read(file)
    file.write_text("")
    with pytest.raises(ConfigError, match=r"mine.csv cannot be read as csv \(No columns to parse from file\)"):
        read(file)
    TABLE.to_csv(file, index=False)
    TABLE.rename(columns={"age": "years"}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(ConfigError, match=r"mine.csv and other.csv differ in column age"):
        read(tmp_path)


def test_a_class_of_the_test_set_only_is_named(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    TABLE.assign(ill="maybe").to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ConfigError, match=r"data.root=.*: only the test set has the class maybe; give more rows"):
        read(tmp_path)
    TABLE[:6].to_csv(tmp_path / "few.csv", index=False)
    with pytest.raises(ConfigError, match=r"few.csv: has 6 rows; some must be left to train, and some to test"):
        read(tmp_path / "few.csv")


def test_one_cell_that_is_no_number_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TABLE.assign(age=pd.Series(["1"] * 20 + ["n/k", None] + ["2"] * 18)).to_csv(file, index=False)
    assert read(file, features=["age"]).train["x"].shape == (36, 4)  # of each of three words, and whether it is missing
    line = "data: the column age: 1 of 39 cells are not numbers ('n/k' is the first), so it is taken as words"
    assert line in capsys.readouterr().err
    read(file, features=["sex"])
    assert "taken as words" not in capsys.readouterr().err


def test_other_separators_encodings_and_spaces_in_the_header(
    tmp_path: Path, launch: Launch, refused: Callable[..., str]
) -> None:
    table = TABLE.rename(columns={"age": " Größe ", "ill": "ill "})
    table.to_csv(tmp_path / "a.csv", index=False, sep=";", encoding="latin-1")
    words = ("task=tabular", "data=csv", f"data.root={tmp_path}", "data.label=ill", "num_clients=2", "num_rounds=1")
    launch(*words, "data.separator=';'", "data.encoding=latin-1", "data.features=['Größe',sex]")
    assert "a.csv cannot be read as csv ('utf-8' codec" in refused(*words, "data.separator=';'")
    assert "cannot be read as csv (unknown encoding: latin" in refused(*words, "data.encoding=latin-11")
    TABLE.assign(**{"age ": 1}).to_csv(tmp_path / "a.csv", index=False)
    assert "a.csv has two columns age" in refused(*words)
