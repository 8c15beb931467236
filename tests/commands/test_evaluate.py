"""A model is worth what its run said of it; other data, and what there is nothing to say of."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Launch, table
from PIL import Image
from safetensors.torch import load_file, save_file

from fl_bench import commands
from fl_bench.errors import ConfigError

SMALL = ("data=synthetic", "data.num_samples=200", "num_clients=4", "num_rounds=2", "local.steps=2")
HELD = ("partition.holdout=0.25", "evaluate.clients=true")
Evaluate = Callable[..., list[dict[str, str]]]


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """The rows of the table that it writes."""

    def start(run: Path, *words: str) -> list[dict[str, str]]:
        assert commands.call("evaluate", [str(run), "--out", str(tmp_path / "out.csv"), *words]) == 0
        return table(tmp_path, "out")

    return start


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


WORDS: dict[str, tuple[str, ...]] = {
    "a whole model": (),
    "layers at the clients": ("strategy=fedper", "clients_per_round=2"),
    "who adapt": ("evaluate.adapt_steps=2", "partition.unseen=0.25"),
    "another model of each": ("strategy=ditto",),
    "validation": ("evaluate.validation=0.1",),
}


@pytest.mark.parametrize("kind", WORDS)
def test_it_says_what_the_run_has_said(kind: str, launch: Launch, evaluate: Evaluate) -> None:
    run = launch(*SMALL, *HELD, *WORDS[kind])
    before = content(run)
    server, *clients = evaluate(run, "--clients")
    assert content(run) == before
    last = table(run, "metrics")[-1]
    assert {name: value for name, value in server.items() if name in last and value} == {
        name: value
        for name, value in last.items()
        if value and name.startswith(("round", "test_", "validation_", "client_", "unseen_"))
    }
    shown = [{key: row.get(key) or "" for key in ("client", "client_loss", "unseen_loss")} for row in clients]
    rows = [row for row in table(run, "clients") if row["round"] == "2"]
    assert shown == [{key: row.get(key) or "" for key in shown[0]} for row in rows]


def test_rounds_that_have_a_checkpoint(launch: Launch, evaluate: Evaluate) -> None:
    run = launch(*SMALL, *HELD, "strategy=fedper", "num_rounds=3", "evaluate.validation=clients")
    rows = table(run, "metrics")
    assert evaluate(run, "--round", "2", "--clients")[0]["client_loss"] == rows[2]["client_loss"]
    record = json.loads((run / "run.json").read_text())
    for best in (2, 3):
        record["best"]["round"] = best
        (run / "run.json").write_text(json.dumps(record))
        assert evaluate(run, "--best", "--clients")[0]["client_loss"] == rows[best]["client_loss"]
    with pytest.raises(ConfigError, match=r"^--round 1: has no checkpoint; those that have: 2, 3$"):
        evaluate(run, "--round", "1")
    plain = launch(*SMALL, "checkpoint.every=0")
    assert evaluate(plain)[0]["test_loss"] == table(plain, "metrics")[-1]["test_loss"]
    with pytest.raises(ConfigError, match=r"^--best: .* has no validation"):
        evaluate(plain, "--best")
    (plain / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"has no model to measure"):
        evaluate(plain)


def test_other_data(launch: Launch, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(*SMALL, *HELD)
    own = evaluate(run)[0]
    capsys.readouterr()
    other = evaluate(run, "data.num_samples=300", "evaluate.batch_size=7")[0]
    assert other["test_loss"] != own["test_loss"]
    assert "note: not on what the run had: other data and partition" in capsys.readouterr().err
    turned = evaluate(run, "shift=rotation", "--clients")[0]
    assert turned["test_loss"] == own["test_loss"]
    assert turned["client_loss"] != table(run, "metrics")[-1]["client_loss"]
    with pytest.raises(ConfigError, match=r"^shift: changes what clients hold, not the test set; add --clients$"):
        evaluate(run, "shift=rotation")
    with pytest.raises(ConfigError, match=r"^strategy=fedper: cannot be chosen again"):
        evaluate(run, "strategy=fedper")


def test_a_model_that_does_not_fit(launch: Launch, evaluate: Evaluate) -> None:
    run = launch(*SMALL)
    file = run / "model.safetensors"
    save_file({name: tensor[:3].clone() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match=r"model\.safetensors: 2 of 2 tensors do not fit: 1\.weight is "):
        evaluate(run)


def test_what_it_does_not_write_over(launch: Launch, evaluate: Evaluate) -> None:
    run = launch(*SMALL, "partition.holdout=0")
    for name in ("metrics.csv", "run.json", "checkpoint/2.safetensors"):
        with pytest.raises(ConfigError, match=rf"^--out {run}/{name}: is a file of the run, and stays as it is$"):
            commands.call("evaluate", [str(run), "--out", f"{run}/{name}"])
    before = content(run)
    assert commands.call("evaluate", [str(run)]) == 0
    assert content(run) == before | {"evaluate.csv": (run / "evaluate.csv").read_bytes()}
    with pytest.raises(ConfigError, match="no client holds out a sample for --clients"):
        commands.call("evaluate", [str(run), "--clients"])
    record = (run / "run.json").read_text()
    (run / "run.json").write_text(record.replace("fl_bench.tasks.mnist.Mnist", "my_tasks.A"))
    with pytest.raises(ConfigError, match="add --trust my_tasks"):
        commands.call("evaluate", [str(run)])


TABLE = pd.DataFrame({"x": np.arange(40) % 7, "ill": [0, 1] * 20})


def test_data_in_which_a_number_means_something_else(launch: Launch, evaluate: Evaluate, tmp_path: Path) -> None:
    """Columns are scaled by the training rows, so that the same patient would look different to the model."""
    TABLE.to_csv(tmp_path / "mine.csv")
    TABLE.assign(x=TABLE.x**2).to_csv(tmp_path / "other.csv")
    words = ("task=tabular", "data=csv", "data.label=ill", "num_clients=2", "num_rounds=1")
    run = launch(*words, f"data.root={tmp_path / 'mine.csv'}")
    assert evaluate(run)[0]["test_loss"] == table(run, "metrics")[-1]["test_loss"]
    with pytest.raises(ConfigError, match=r"^data: with task=tabular what a number stands for follows from the train"):
        evaluate(run, f"data.root={tmp_path / 'other.csv'}")


def test_classes_with_other_names(launch: Launch, evaluate: Evaluate, tmp_path: Path) -> None:
    for folder, names in (("mine", ("cat", "dog")), ("other", ("dog", "elk"))):
        for number, name in enumerate(names * 10):
            (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(np.full((16, 16), number * 9, np.uint8))
            image.save(tmp_path / folder / name / f"{number}.png")
    words = ("task=images", "model=logistic", "data=folder", "num_clients=2", "num_rounds=1")
    run = launch(*words, f"data.root={tmp_path / 'mine'}")
    with pytest.raises(ConfigError, match=r"^data: its classes are not the run's, which has cat where these have dog$"):
        evaluate(run, f"data.root={tmp_path / 'other'}")
    with pytest.raises(ConfigError, match=r"^--out .*: there is no folder "):
        evaluate(run, "--out", str(tmp_path / "mine" / "nowhere" / "x.csv"))
