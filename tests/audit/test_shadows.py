"""Membership by shadow models: their arithmetic, and the runs that are made for it."""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, forked, long, table

from fl_bench import commands
from fl_bench.audit.membership import membership, ratios
from fl_bench.commands._common import recorded
from fl_bench.errors import ConfigError
from fl_bench.runs.shadows import folders


def losses_of(confidence: object) -> Any:
    """The losses -log p of probabilities with these log(p / (1 - p))."""
    losses: np.ndarray = np.logaddexp(0, -np.asarray(confidence, float))
    return losses


def test_ratios_by_hand() -> None:
    """From the row's mean the models that have it deviate by -1, 1, -1, 1; those that have not by -1, 1, 0, 0.

    So the variances are 1 and 1/2. Row 0 lies at the mean 3 of the first, and 3 above that of the others; row 1 lies 1
    below the mean 2 of the first, and 1 above that of the others.
    """
    inside = np.array([[1, 1], [1, 0], [0, 0], [0, 1]], bool)
    shadows = losses_of([[2, 1], [4, 0], [-1, 0], [1, 3]])
    found = ratios(losses_of([3, 1]), shadows, inside)
    assert found == pytest.approx([9 - np.log(2) / 2, 1 - 1 / 2 - np.log(2) / 2])


def test_a_row_that_all_models_have_tells_nothing() -> None:
    inside = np.array([[1, 1], [0, 1], [1, 1]], bool)
    assert ratios(np.array([0.1, 0.1]), np.array([[0.1, 0.3], [0.5, 0.1], [0.2, 0.2]]), inside)[1] == 0


def test_shadows_see_what_a_threshold_does_not() -> None:
    """Rows that differ much in how hard they are, and a little in whether they were trained on."""
    draws = np.random.default_rng(0)
    hard, inside = draws.normal(0, 5, 2000), draws.random((17, 2000)) < 0.5
    losses = losses_of(hard + 1.5 * inside + draws.normal(size=inside.shape))
    members, found = inside[0], ratios(losses[0], losses[1:], inside[1:])
    plain, shadowed = (membership(values[members], values[~members]) for values in (losses[0], -found))
    assert plain.auc[2] < 0.63
    assert shadowed.auc[0] == pytest.approx(0.8556, abs=0.03)  # Phi(1.5 / sqrt(2)), of known means
    assert shadowed.tpr[0] > 5 * plain.tpr[0]


RUN = (
    "data=synthetic", "data.num_samples=200", "num_clients=4", "num_rounds=3", "local.steps=20",
    "partition.holdout=0.4", "engine=inline", "figures=false", "sweep.parallel=1",
)  # fmt: skip


@long
def test_shadow_runs_are_made_once(tmp_path: Path) -> None:
    """Interrupted or asked for again, those that are there stay; they are no part of a comparison."""
    assert forked(*RUN, "hydra.run.dir=runs/a", cwd=tmp_path).returncode == 0
    run, audit = tmp_path / "runs" / "a", ("audit", "runs/a", "--what", "membership", "--shadows")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    first = forked(*audit, "4", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    found = {row["number"]: float(row["value"]) for row in table(run / "audit", "audit")}
    assert found["shadows_auc"] > 0.6
    shadows = run / "audit" / "shadows"
    assert sorted(file.parent.name for file in shadows.glob("*/run.json")) == [f"seed={seed}" for seed in (1, 2, 3, 4)]
    split = table_of(shadows / "seed=1")
    assert 0.4 < np.mean([row["heldout"] == "1" for row in split]) <= 0.5
    kept = (shadows / "seed=2" / "run.json").read_bytes()
    assert forked(*audit, "6", cwd=tmp_path).returncode == 0
    assert (shadows / "seed=2" / "run.json").read_bytes() == kept
    assert len(list(shadows.glob("*/run.json"))) == 6
    assert {file: file.read_bytes() for file in before} == before
    cfg, _ = recorded(run, ["engine=inline"])
    assert [folder.name for folder in folders(cfg, shadows, 3)] == ["seed=1", "seed=2", "seed=3"]
    compared = forked("compare", "runs", cwd=tmp_path)
    assert "shadows" not in compared.stdout + compared.stderr


def table_of(run: Path) -> list[dict[str, str]]:
    with gzip.open(run / "split.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def test_too_few_and_runs_of_another_config(launch: Launch) -> None:
    run = launch(*RUN[:-1], "num_rounds=1")
    with pytest.raises(ConfigError, match=r"^--shadows 3: must be 4 or more$"):
        commands.call("audit", [str(run), "--shadows", "3"])
    cfg, _ = recorded(run)
    (run / "audit").mkdir()
    with pytest.raises(ConfigError, match=r"^--shadows 4: the words of the run make another config than it has"):
        folders(cfg, run / "audit", 4)


@long
def test_without_rows_held_out_there_are_no_shadows(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    run = launch(*RUN[:-1], "num_rounds=1", "partition.holdout=0")
    monkeypatch.setattr("fl_bench.commands.audit.call", lambda *_, **__: 0)
    monkeypatch.setattr("fl_bench.commands.audit.shadows.folders", lambda *_: [run])
    with pytest.raises(ConfigError, match=r"^membership: shadow runs are for rows that clients hold out"):
        commands.call("audit", [str(run), "--shadows", "4"])
