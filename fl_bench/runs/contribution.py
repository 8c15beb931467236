"""What each client has contributed to a run: each round once more without it, on the updates that a ledger has kept.

Leave-one-out: a round begins as it did, and the server makes its model as if one of those who have answered had dropped
out. How much worse that is on the central test set is what the client has contributed to this round.
"""

from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig

from fl_bench.build import build
from fl_bench.deployment.told import Told
from fl_bench.engines.base import Engine
from fl_bench.errors import ConfigError, no_exit, plain
from fl_bench.federation.exchange import Status, with_status
from fl_bench.federation.local import Trainer, Vector
from fl_bench.ledger import chain
from fl_bench.metrics import merge, values
from fl_bench.runs.prepare import prepare
from fl_bench.runs.recompute import ServerHalf
from fl_bench.runs.scratch import scratch_folder
from fl_bench.storage import files
from fl_bench.tasks.base import Task

NAME = "contribution.csv"


@no_exit()
def contribution(cfg: DictConfig, run: Path) -> None:
    """Write contribution.csv to the folder of the run, and print each client's mean contribution to the test loss.

    A row has the metrics of a round's model as it was, and `without_` those of the model without a client. Raises
    ConfigError where the server has no whole model, or nothing to test it on.
    """
    with scratch_folder() as scratch:
        data = build(cfg.engine, Engine).place(scratch)
        trainer = prepare(cfg, build(cfg.task, Task), data, lambda _: Told.open(run))
        if not trainer.test_batches:
            raise ConfigError("--contribution: the server has no whole model, or no test set to measure it on")
        rows = list(_rows(trainer, run / chain.FOLDER))
    columns = dict.fromkeys(["round", "client", *(name for row in rows for name in row)])
    files.write(run / NAME, files.csv_of([columns, *([row.get(name) for name in columns] for row in rows)]))
    gains = defaultdict[int, list[float]](list)
    for row in rows:
        gains[row["client"]].append(row["without_test_loss"] - row["test_loss"])
    for client, mine in sorted(gains.items(), key=lambda pair: -fmean(pair[1])):
        print(f"client {client}: {fmean(mine):+.6f} of test_loss a round, over {len(mine)} rounds")
    print(plain(run / NAME))


def _rows(trainer: Trainer, folder: Path) -> Iterator[dict[str, Any]]:
    server = ServerHalf(folder)
    vector = server.first
    for round in chain.rounds(folder)[1:]:
        before = deepcopy(server)  # a server half may remember something from one round to the next
        whole = server.round(round, vector)
        tested = _tested(trainer, whole)
        for answer in with_status(Status.OK, server.kept.answers.values()):
            without = _tested(trainer, deepcopy(before).round(round, vector, answer.client))
            others = {f"without_{name}": value for name, value in without.items()}
            yield {"round": round, "client": answer.client, **tested, **others}
        vector = whole


def _tested(trainer: Trainer, vector: Vector) -> dict[str, float]:
    metrics = values(merge(trainer.test(vector, trainer.test_batches)))
    return {f"test_{name}": value for name, value in metrics.items()}
