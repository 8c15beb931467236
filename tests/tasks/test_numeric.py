"""Tables and series in whole runs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Launch, table

from fl_bench.data.signals import LENGTH, PERIODS, waves


def test_the_waves_have_the_frequency_of_their_class() -> None:
    data = waves()
    quiet = data.train["source"] == 0
    spectra = np.abs(np.fft.rfft(data.train["x"][quiet])).sum(axis=1)
    found = spectra[:, 1 : LENGTH // 4].argmax(axis=1) + 1
    assert (found == np.array(PERIODS)[data.train["y"][quiet]]).mean() > 0.98
    noise = [data.train["x"][data.train["source"] == k].std() for k in range(10)]
    assert noise == sorted(noise)


def test_a_table_of_ones_own_with_a_client_for_each_hospital(launch: Launch, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    age = rng.normal(size=300)
    hospitals = np.repeat(["north", "east", "south"], [150, 100, 50])
    frame = pd.DataFrame({"age": age, "hospital": hospitals, "ill": np.where(age > 0, "yes", "no")})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    words = (f"data.root={tmp_path / 'mine.csv'}", "data.label=ill", "data.client=hospital", "partition=natural")
    folder = launch("task=tabular", "data=csv", *words, "num_clients=3", "num_rounds=5", "local.steps=20")
    assert [list(row.values()) for row in table(folder, "sources")] == [
        ["0", "east", "90"], ["1", "north", "135"], ["2", "south", "45"],
    ]  # fmt: skip
    assert float(table(folder, "metrics")[-1]["test_accuracy"]) > 0.9


@pytest.mark.parametrize("words", [("model=gru", "model.hidden=8"), ("model=logistic",), ("model=mlp",)])
def test_series_by_other_models(launch: Launch, words: tuple[str, ...]) -> None:
    folder = launch("task=series", *words, "partition=natural", "num_rounds=1", "local.steps=2")
    assert [row["source"] for row in table(folder, "sources")] == [f"noise {0.5 + k * 2.5 / 9:.1f}" for k in range(10)]


def test_what_does_not_fit_is_one_line(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("task=tabular", "model=gru", exit_code=2)
    launch("task=series", "data=flights", exit_code=2)
    launch("task=tabular", "data=csv", "data.root=nowhere", "data.label=ill", exit_code=2)
    lines = capsys.readouterr().err.splitlines()
    assert "gru takes series [channels, length], and an example of this task is [30]" in lines[0]
    assert lines[1:] == [
        "fl-bench: data.source=flights: Series has no such data; known: embedded, har",
        "fl-bench: data.root=nowhere: is neither a file nor a folder with files *.csv",
    ]
