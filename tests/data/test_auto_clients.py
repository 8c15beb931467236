"""num_clients=auto: one client for each source of the data."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Launch, digests, table

from fl_bench import commands
from fl_bench.data.partition import natural

WORDS = ("task=series", "partition=natural", "local.steps=1")  # of 10 sources
AUTO = (*WORDS, "num_clients=auto", "num_rounds=1")


def facts(folder: Path) -> tuple[int, int, int]:
    """How many clients run.json and clients.csv say there are, and how many trained in a round."""
    rows = table(folder, "clients")
    run = json.loads((folder / "run.json").read_text())
    return run["num_clients"], len({row["client"] for row in rows}), len([row for row in rows if row["round"] == "1"])


def test_small_sources_are_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"source": np.repeat([7, 3, 5], [4, 1, 2])}
    owners = natural(columns, "auto", np.random.default_rng(0), min_samples=2)
    assert owners.tolist() == [1, 1, 1, 1, -1, 0, 0]
    assert "num_clients=auto: 2, one for each source of the data" in capsys.readouterr().err


def test_it_is_the_same_as_the_number(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    auto, number = launch(*AUTO), launch(*WORDS, "num_clients=10", "num_rounds=1")
    assert digests(auto) == digests(number)
    assert facts(auto) == facts(number) == (10, 10, 10)
    assert "note: num_clients=auto: 10, one for each source" in capsys.readouterr().err


def test_it_goes_on_and_can_be_verified_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    words = (*AUTO, "engine=inline", "figures=false", "partition.unseen=0.2", "partition.holdout=0.2")
    assert commands.call("run", [*words, "num_rounds=2", f"hydra.run.dir={whole}"]) == 0
    assert commands.call("run", [*words, f"hydra.run.dir={parts}"]) == 0
    assert commands.call("resume", [parts, "num_rounds=2"]) == 0
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    assert commands.call("rerun", [whole]) == 0  # which verifies the two
    capsys.readouterr()
    assert commands.call("replay", [parts, "--round", "2", "--client", "7"]) == 0
    assert "the same as in clients.csv" in capsys.readouterr().out


def test_some_may_never_train_and_a_round_may_ask_fewer(launch: Launch) -> None:
    words = ("partition.unseen=0.2", "partition.holdout=0.5", "clients_per_round=3", "figures=true")
    folder = launch(*AUTO, *words)
    assert facts(folder)[0] == 10
    assert {row["unseen_accuracy"] != "" for row in table(folder, "metrics")} == {True}
    launch(*AUTO, "partition.unseen=0.2", "clients_per_round=9", exit_code=2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("num_clients=auto", "partition=iid"), "num_clients=auto: needs partition=natural, and data with sources"),
        (("num_clients=many",), "num_clients=many: must be a whole number, or auto"),
        (("num_clients=2.5",), "num_clients=2.5: must be a whole number, or auto"),
        (("num_clients=0",), "num_clients=0: must be 1 or more"),
        (("clients_per_round=auto",), "clients_per_round=auto: must not be more than num_clients=10"),
        (
            ("num_clients=auto", "strategy=dp_server_fixed"),
            "num_clients=auto: must be a number where epsilon is counted",
        ),
    ],
)
def test_what_cannot_be(refused_by_rules: Callable[..., str], words: tuple[str, ...], line: str) -> None:
    assert refused_by_rules(*WORDS, *words).startswith(line)


@pytest.fixture
def refused_by_rules() -> Callable[..., str]:
    from conftest import compose
    from hostile import refusal

    return lambda *words: refusal(lambda: compose(*words))


def test_data_without_sources(refused: Callable[..., str]) -> None:
    assert 'has no column "source"' in refused("task=images", "partition=natural", "num_clients=auto")
