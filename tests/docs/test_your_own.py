"""docs/your-own.md: a reader who copies its files and types its four commands gets a run of each."""

import csv
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, forked, long

PAGE = (ROOT / "docs" / "your-own.md").read_text()
COMMANDS = re.findall(r"^    PYTHONPATH=\. fl-bench (.*)$", PAGE, re.MULTILINE)
SMALL = ("num_rounds=2", "figures=false", "hydra.run.dir=run")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name, text in re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_there_are_four() -> None:
    assert [re.findall("(model|data|experiment|partition)=", line)[0] for line in COMMANDS] == [
        "model", "data", "experiment", "partition",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "number", [0, 1, *(pytest.param(k, marks=long) for k in (2, 3))], ids=["model", "data", "schedule", "partition"]
)
def test_each_runs(number: int, own: Path) -> None:
    done = forked(*shlex.split(COMMANDS[number]), *SMALL, cwd=own)
    assert done.returncode == 0, done.stderr
    record = json.loads((own / "run" / "run.json").read_text())
    samples: Counter[str] = Counter()
    for row in csv.DictReader((own / "run" / "partition.csv").open()):
        samples[row["client"]] += int(row["samples"])
    assert [
        record["model"]["parameters"] == 784 * 16 + 16 + 16 * 10 + 10,
        sorted(samples) == ["0", "1", "2"] and samples.total() < 12,  # some rows are the test set
        record["config"]["local"]["lr_schedule"] == {"_target_": "my_rate.inverse_root", "slow": 5},
        0.45 < samples["0"] / samples.total() < 0.55,
    ][number]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["experiment=slowing", "local.lr_schedule.slow=x"], "local.lr_schedule.slow=x: should be a valid number"),
        (
            ["experiment=slowing", "local.lr_schedule._target_=my_rate.none"],
            "local.lr_schedule._target_=my_rate.none: ",
        ),
        (
            ["local.lr_schedule=my_rate.inverse_root"],
            "local.lr_schedule=my_rate.inverse_root: must be one of constant, ",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_told_before_the_run(words: list[str], line: str, own: Path) -> None:
    done = forked("--config-dir", "conf", *words, "engine=inline", *SMALL, cwd=own)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"fl-bench: {line}"), done.stderr
