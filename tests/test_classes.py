"""per_class.csv and confusion.csv: of the final global model, by hand and in a run's folder."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Launch, long, table

from fl_bench.results import classes
from fl_bench.runs.verify import differences
from fl_bench.storage import run_json
from fl_bench.storage.folder import clear

SMALL = ("num_rounds=2", "num_clients=4", "local.steps=5", "data=synthetic", "data.num_samples=400")
NAMES = ("per_class.csv", "confusion.csv")


def test_by_hand(tmp_path: Path) -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2])
    classes.write(tmp_path, labels, predicted, ("cat", "a, b", "bird", "nobody's"))
    assert (tmp_path / "per_class.csv").read_text().splitlines() == [
        "class,count,predicted,correct,accuracy,precision,f1",
        "cat,3,2,2,0.6666666666666666,1.0,0.8",
        '"a, b",2,2,1,0.5,0.5,0.5',
        "bird,0,1,0,,0.0,0.0",
        "nobody's,0,0,0,,,",
    ]
    assert (tmp_path / "confusion.csv").read_text().splitlines() == [
        "label,predicted,count", "cat,cat,2", 'cat,"a, b",1', '"a, b","a, b",1', '"a, b",bird,1',
    ]  # fmt: skip


def test_they_are_of_the_final_model_and_sealed(launch: Launch) -> None:
    a, b = (
        launch(*SMALL, "evaluate.metrics=[balanced_accuracy,macro_f1]", *words) for words in ((), ("figures=true",))
    )
    each, last = pd.read_csv(a / "per_class.csv"), table(a, "metrics")[-1]
    assert len(each) == 10
    assert each.correct.sum() / each["count"].sum() == pytest.approx(float(last["test_accuracy"]), abs=1e-12)
    assert each.accuracy.mean() == pytest.approx(float(last["test_balanced_accuracy"]), abs=1e-12)
    assert each.f1.mean() == pytest.approx(float(last["test_macro_f1"]), abs=1e-12)
    assert pd.read_csv(a / "confusion.csv")["count"].sum() == each["count"].sum()
    assert [(a / name).read_bytes() for name in NAMES] == [(b / name).read_bytes() for name in NAMES]
    record = json.loads((a / "run.json").read_text())
    assert set(NAMES) <= set(record["files"])
    (a / "per_class.csv").write_text("class,count\n0,1\n")
    assert run_json.changed(a, record) == ["per_class.csv"]
    assert [line.partition(":")[0] for line in differences(a, b)] == ["per_class.csv"]
    (a / "per_class.csv").unlink()
    assert not list(differences(a, b))  # as a run of an older version
    clear(b)
    assert not any((b / name).exists() for name in NAMES)


@pytest.mark.parametrize("words", [("strategy=fedper", "task=cifar"), pytest.param(("task=sam",), marks=long)])
def test_there_are_none_without_a_whole_model_or_classes(launch: Launch, words: tuple[str, ...]) -> None:
    folder = launch("num_rounds=1", "num_clients=4", "local.steps=1", *words)
    assert not any((folder / name).exists() for name in NAMES)
