"""The table of who holds which rows: written by every run, read again, or made by somebody else."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Launch, compose, digests

from fl_bench.build import build
from fl_bench.data import split
from fl_bench.data.arrays import FederatedData
from fl_bench.data.partition import NOBODY, Partition
from fl_bench.errors import ConfigError
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task

SMALL = ("data=synthetic", "data.num_samples=60", "num_clients=4", "num_rounds=2", "partition.holdout=0.3")
COLUMNS = {"y": np.zeros(6, np.int64)}
DATA = FederatedData(COLUMNS, COLUMNS, ("all",))


def test_a_table_by_hand(tmp_path: Path) -> None:
    seen = Partition(np.array([4, 1, 0]), np.array([0, 2, 3]), np.array([1, 3]))
    split.write(DATA, seen, Partition(np.array([5]), np.array([0, 1]), np.array([0])), tmp_path)
    text = gzip.decompress((tmp_path / "split.csv.gz").read_bytes()).decode()
    assert text == "row,client,heldout,unseen\n0,1,0,0\n1,0,1,0\n4,0,0,0\n5,2,1,1\n"
    owners, heldout, unseen = split.from_file(COLUMNS, 3, np.random.default_rng(0), str(tmp_path / "split.csv.gz"))
    assert owners.tolist() == [1, 0, -1, -1, 0, 2]
    assert heldout is not None
    assert unseen is not None
    assert unseen.tolist() == [2]
    assert heldout.tolist() == [False, True, False, False, False, True]


def test_a_run_with_the_split_of_another_is_the_same(launch: Launch, tmp_path: Path) -> None:
    first = launch(*SMALL, "partition=dirichlet", "evaluate.clients=true")
    again = launch(*SMALL, "partition=file", f"partition.path={first}/split.csv.gz", "evaluate.clients=true")
    assert digests(again) == digests(first)
    assert (again / "split.csv.gz").read_bytes() == (first / "split.csv.gz").read_bytes()


def test_what_the_file_says_and_the_keys_do_not_is_said(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{row},{row % 4},{int(row < 24)},{int(row % 4 == 3)}\n" for row in range(40))
    (tmp_path / "ours.csv").write_text(f"row,client,heldout,unseen\n{rows}")
    words = ("data=synthetic", "data.num_samples=60", "num_clients=4", "clients_per_round=2", "num_rounds=1",
             "partition=file", f"partition.path={tmp_path}/ours.csv")  # fmt: skip

    def said(*more: str) -> list[str]:
        launch(*words, *more)
        return [line for line in capsys.readouterr().err.splitlines() if " as the file says, not " in line]

    held = "fl-bench: note: partition: 24 of 40 rows are held out, as the file says, not partition.holdout="
    never = "fl-bench: note: partition: 1 of 4 clients never train, as the file says, not partition.unseen="
    assert said() == [f"{held}0.1", f"{never}0.0"]
    assert said("partition.holdout=0.6", "partition.unseen=0.25") == []
    assert said("partition.holdout=0.5", "partition.unseen=0.5") == [f"{held}0.5", f"{never}0.5"]


def test_who_never_trains_stays_so(launch: Launch) -> None:
    words = (*SMALL, "num_clients=5", "clients_per_round=3")
    first = launch(*words, "partition=dirichlet", "partition.unseen=0.4")
    again = launch(*words, "partition=file", f"partition.path={first}/split.csv.gz")
    assert digests(again) == digests(first)


def test_what_is_held_out_does_not_depend_on_the_seed(launch: Launch, tmp_path: Path) -> None:
    first = launch(*SMALL, "partition=linear")
    table = pd.read_csv(first / "split.csv.gz")
    cfg = compose(*SMALL, "seed=5", "partition=file", f"partition.path={first}/split.csv.gz")
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path)
    for client in range(4):
        mine = table[table.client == client]
        assert sorted(trainer.partition.heldout_rows(client)) == sorted(mine.row[mine.heldout == 1])
        assert sorted(trainer.partition.train_rows(client)) == sorted(mine.row[mine.heldout == 0])


def test_a_table_that_does_not_say_what_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("client,row\n1,0\n1,5\n0,2\n")
    owners, *others = split.from_file(COLUMNS, 2, np.random.default_rng(0), str(tmp_path / "mine.csv"))
    assert (owners.tolist(), others) == ([1, -1, 0, -1, -1, 1], [None, None])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "cannot be read \\(.*No such file"),
        ("", "cannot be read \\(No columns to parse from file\\)"),
        ("row,clients\n1,1\n", "has no column client; it needs row and client, and may have heldout and unseen"),
        ("row,client\n1,1\n6,0\n", "column row must have integers from 0 to 5"),
        ("row,client\n1,2\n", "column client must have integers from 0 to 1, as num_clients=2"),
        ("row,client\n1,x\n", "column client must have integers from 0 to 1"),
        ("row,client,heldout\n1,1,\n", "column heldout must have integers from 0 to 1"),
        ("row,client\n1,1\n1,0\n", "names row 1 twice"),
    ],
    ids=str,
)
def test_tables_that_cannot_be(tmp_path: Path, text: str | None, line: str) -> None:
    file = tmp_path / "mine.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=f"partition.path={file}: {line}"):
        split.from_file(COLUMNS, 2, np.random.default_rng(0), str(file))


def test_nobody_is_a_partition_too() -> None:
    nobody = Partition(NOBODY, np.zeros(1, np.int64), NOBODY)
    assert nobody.label_counts(np.zeros(3, np.int64), 2).shape == (0, 2)
