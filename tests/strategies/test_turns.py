"""A client half is shared by all clients of a worker: what it works with in one client's turn belongs to that turn."""

import copy
from pathlib import Path

import pytest
from conftest import STRATEGIES, compose

from fl_bench.build import build
from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.federation.exchange import Status
from fl_bench.federation.rounds import Rounds
from fl_bench.runs.experiment import make, make_fleet, make_strategy
from fl_bench.runs.prepare import prepare
from fl_bench.storage.checkpoint import Store
from fl_bench.tasks.base import Task

SMALL = ("num_clients=5", "local.steps=2", "data=synthetic", "data.num_samples=60")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_turn_leaves_nothing_in_the_algorithm(name: str, tmp_path: Path) -> None:
    norm = "group" if name.startswith("dp_") else "batch"
    cfg = compose("task=cifar", f"strategy={name}", f"model.norm={norm}", *SMALL)
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path)
    algorithm = trainer.algorithm
    trainer.rows(0, 1)  # what it learns of the partition is the same for everybody
    before = copy.deepcopy(vars(algorithm))
    made = make(cfg, make_strategy(cfg.strategy.server), trainer, tmp_path, Store(tmp_path, 0))
    round = Rounds(made, make_fleet(made, InlineGrid())).train(1, trainer.untrained())
    assert {answer.status for answer in round.answers} <= {Status.OK, Status.EMPTY}
    assert vars(algorithm) == before
