"""What a study reads from the folders of runs."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Launch
from made import make_run

from fl_bench.errors import ConfigError
from fl_bench.storage import run_json
from fl_bench.studies.study import Skipped, load


def test_a_run_says_which_way_its_metrics_get_better(launch: Launch) -> None:
    folder = launch("num_rounds=1", "evaluate.metrics=[perplexity]")
    better = json.loads((folder / "run.json").read_text())["better"]
    assert (better["accuracy"], better["loss"], better["perplexity"]) == ("higher", "lower", "lower")
    study = load([folder])
    assert (study.better["test_accuracy"], study.better["train_loss"]) == ("higher", "lower")
    assert "clients_ok" not in study.better


def test_what_the_rounds_cost(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.1, 0.5, 0.7])
    study = load([tmp_path])
    assert study.rounds["test_accuracy"].tolist() == [0.1, 0.5, 0.7]
    assert study.rounds["bytes"].tolist() == [0, 200, 400]
    assert study.rounds["steps"].tolist() == [0, 12, 24]
    assert study.rounds["wall_seconds"].tolist() == [10, 20, 30]
    run = study.runs.iloc[0]
    assert (run["rounds"], run["steps"], run["bytes"], run["virtual_seconds"], run["wall_seconds"]) == (
        2, 24, 400, 1.0, 30,
    )  # fmt: skip
    assert (run["arm"], run["setting"], run["also"]) == ("fedavg", "", "")
    assert dict(study.better) == {"test_accuracy": "higher"}


def test_steps_are_unknown_from_where_a_run_did_not_count_them(tmp_path: Path) -> None:
    older = make_run(tmp_path / "a", [0.1, 0.5, 0.7, 0.8])
    table = pd.read_csv(older / "metrics.csv")
    counted: dict[str, Any] = {"without": None, "later": ["", "", 12, 12]}
    for name, steps in counted.items():
        folder = make_run(tmp_path / name, [0.1, 0.5, 0.7, 0.8], "strategy=fedprox", f"seed={len(name)}")
        changed = table.drop(columns="steps") if steps is None else table.assign(steps=steps)
        changed.to_csv(folder / "metrics.csv", index=False)
        run_json.save(folder, run_json.read(folder) | {"files": run_json.seals(folder)})
        study = load([folder])
        assert study.rounds["steps"].isna().tolist() == [False, True, True, True]
        assert math.isnan(study.runs.iloc[0]["steps"])


def test_arms_and_settings(tmp_path: Path) -> None:
    words = [
        ("strategy=fedavg", "local.lr=0.1"), ("strategy=fedprox", "local.lr=0.2", "strategy.mu=0.1"),
        ("strategy=fedprox", "local.lr=0.2", "strategy.mu=1.0"),
    ]  # fmt: skip
    for i, arm in enumerate(words):
        for alpha in ("0.1", "1.0"):
            make_run(
                tmp_path / f"{i}_{alpha}", [0.1], *arm, f"partition.alpha={alpha}", f"seed={i}", "engine.threads=2"
            )
    runs = load([tmp_path]).runs
    assert runs["arm"].unique().tolist() == ["fedavg", "fedprox strategy.mu=0.1", "fedprox strategy.mu=1.0"]
    assert runs["setting"].unique().tolist() == ["partition.alpha=0.1", "partition.alpha=1.0"]
    assert runs["also"].unique().tolist() == ["local.lr=0.1", "local.lr=0.2"]
    assert runs["strategy.mu"].tolist() == [None, None, 0.1, 0.1, 1.0, 1.0]
    by_alpha = load([tmp_path], ["partition.alpha"]).runs
    assert by_alpha["arm"].unique().tolist() == ["partition.alpha=0.1", "partition.alpha=1.0"]
    assert by_alpha["setting"].unique().tolist() == runs["arm"].unique().tolist()
    with pytest.raises(ConfigError, match=r"--by partition.alpa: .* did you mean partition.alpha"):
        load([tmp_path], ["partition.alpa"])


def test_what_no_word_of_an_arm_says_is_not_said_of_it(tmp_path: Path) -> None:
    for i, (strategy, rate) in enumerate((("fedavg", "0.1"), ("scaffold", "0.5"))):
        for seed in (0, 1):
            run = make_run(tmp_path / f"{i}{seed}", [0.1], f"strategy={strategy}", f"local.lr={rate}", f"seed={seed}")
            if strategy == "fedavg":  # its rate is the default
                run_json.save(run, run_json.read(run) | {"overrides": ["strategy=fedavg", f"seed={seed}"]})
    runs = load([tmp_path]).runs
    assert dict(zip(runs["arm"], runs["also"], strict=True)) == {"fedavg": "", "scaffold": "local.lr=0.5"}


def test_a_key_that_makes_no_arm_does_where_it_is_named(tmp_path: Path) -> None:
    for threads in (1, 2):
        make_run(tmp_path / f"{threads}", [0.1], f"engine.threads={threads}")
    assert load([tmp_path], ["engine"]).runs["arm"].tolist() == ["engine.threads=1", "engine.threads=2"]
    study = load([tmp_path])
    assert study.runs["arm"].tolist() == ["fedavg"]
    assert study.skipped[0].why == f"has the words of {tmp_path}/1, but engine.threads is 2 and not 1"


def test_as_few_keys_as_tell_the_arms_apart(tmp_path: Path) -> None:
    for i, word in enumerate(("weighting=examples", "weighting=uniform", "local.optimizer.name=SGD")):
        make_run(tmp_path / f"{i}", [0.1], word, f"seed={i}")
    runs = load([tmp_path]).runs
    assert runs["arm"].tolist() == ["weighting=examples", "weighting=uniform", "local.optimizer.name=SGD"]


def test_an_arm_is_called_by_no_more_than_tells_it_from_the_others(tmp_path: Path) -> None:
    arms = [
        ("fedavg", "examples", 0.1),
        ("fedavg", "uniform", 0.2),
        ("scaffold", "examples", 0.1),
        ("fedprox", "uniform", 0.3),
    ]
    for strategy, weighting, rate in arms:  # the rates would tell them apart too, but were tuned
        words = (f"strategy={strategy}", f"weighting={weighting}", f"local.lr={rate}")
        make_run(tmp_path / f"{strategy}_{weighting}", [0.1], *words)
    found = load([tmp_path]).runs["arm"]
    assert set(found) == {"fedavg weighting=examples", "fedavg weighting=uniform", "scaffold", "fedprox"}


def test_what_does_not_count(tmp_path: Path) -> None:
    def make(name: str, seed: int, **more: Any) -> Path:
        return make_run(tmp_path / "study" / name, [0.1, 0.2], f"seed={seed}", **more)

    first = make("1", 0)
    make("2", 0)
    make("3", 0, data={"data": "others", "partition": "p"})
    make("4", 1, status="running")
    make("5", 1, status="failed", error="round 3: no answers")
    make("6", 1).joinpath("metrics.csv").write_text("round\n")
    make("7", 1).joinpath("model.safetensors").unlink()
    (make("8", 1) / "run.json").write_text("[")
    odd = make("9", 0)
    record = run_json.read(odd)
    run_json.save(odd, record | {"config": record["config"] | {"seed": "x"}})
    make("10", 0)
    assert load([tmp_path]).skipped == [
        Skipped(str(tmp_path / "study" / name), why)
        for name, why in {
            "4": "running",
            "5": "failed: round 3: no answers",
            "6": "is damaged: metrics.csv is not what the run wrote",
            "8": "run.json: is damaged: it is no JSON object, or nested too deep",
            "9": "run.json: is damaged: config.seed: Input should be a valid integer",
            "2": f"the same as {first}",
            "3": f"has the words of {first}, but other data",
            "10": f"the same as {first}",
        }.items()
    ]
    assert load([tmp_path, first]).runs["seed"].tolist() == [0, 1]


def test_a_key_that_no_word_has_is_said(tmp_path: Path) -> None:
    first = make_run(tmp_path / "1", [0.1])
    second = make_run(tmp_path / "2", [0.1])
    record = run_json.read(second)
    record["config"]["local"] = {"lr": 0.5}
    run_json.save(second, record)
    assert [skipped.why for skipped in load([tmp_path]).skipped] == [
        f"has the words of {first}, but local.lr is 0.5 and not nothing"
    ]


def test_runs_of_older_versions_say_less(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "1", [0.1, 0.2])
    record = {key: value for key, value in run_json.read(folder).items() if key in ("status", "config", "files")}
    run_json.save(folder, record)
    study = load([folder])
    assert study.better == {}
    assert study.runs["strategy"].tolist() == [None]


def test_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: there is no such folder"):
        load([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match=r"there is no finished run below: no run.json is there"):
        load([tmp_path])
    make_run(tmp_path / "1", [0.1], status="interrupted", error="stopped by Ctrl-C")
    with pytest.raises(ConfigError, match="none of 1 counts; the first: interrupted: stopped by Ctrl-C"):
        load([tmp_path])
