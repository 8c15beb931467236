"""One client's turn once more, exactly as it was: to see why it failed, or that its numbers are what was written."""

import csv
import pdb
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.build import build
from fl_bench.engines.inline import InlineGrid
from fl_bench.errors import ConfigError, RunError
from fl_bench.experiment import make_fleet, make_schedule, make_strategy, prepare
from fl_bench.federation.checkpoint import Checkpoint, Store
from fl_bench.federation.client import Row
from fl_bench.federation.fleet import Fleet
from fl_bench.federation.local import Trainer
from fl_bench.federation.rounds import Rounds, client_metrics
from fl_bench.results import flower_log
from fl_bench.results.console import note
from fl_bench.results.journal import Journal
from fl_bench.run import run


def replay(cfg: DictConfig, folder: Path, round: int, client: int, evaluation: bool, debug: bool) -> int:
    """Show a client's numbers in a round of the run in `folder` beside those of its clients.csv; 0 where they agree.

    `cfg` is the run's, on the inline engine. What the round began with comes from a checkpoint; without one the rounds
    before it are repeated. Nothing in `folder` is changed. With `debug` the turn begins in pdb.
    """
    flower_log.quieten()
    with TemporaryDirectory(prefix="fl-bench-") as scratch:
        copy, data = Path(scratch, "run"), Path(scratch, "data")
        data.mkdir()
        before = round if evaluation else round - 1
        start = _go_to(cfg, folder, before, copy, Path(scratch))
        strategy, trainer = make_strategy(cfg.strategy.server), prepare(cfg, build(cfg.task), data)
        store = Store(copy, 0)
        schedule = make_schedule(cfg, trainer)
        rounds = Rounds(cfg, strategy, trainer, schedule, store, Journal(copy, cfg), None, lambda row: None)
        fleet = make_fleet(cfg, InlineGrid(), data, store.states, trainer)
        start.put_back(rounds.parts)
        fleet.round = round
        turn = partial(_evaluate if evaluation else _train, rounds, fleet, start, client)
        row = _debugged(turn, Trainer.evaluate_client if evaluation else Trainer.train) if debug else turn()
    return _compare(row, _recorded(folder, round, client))


def _train(rounds: Rounds, fleet: Fleet, start: Checkpoint, client: int) -> Row:
    """The client's row as its training makes it."""
    messages, plan = rounds.configure_train(fleet.round, start.vector, fleet)
    if client not in plan.asked or client in plan.dropping:
        turns = [asked for asked in plan.asked if asked not in plan.dropping]
        raise ConfigError(f"--client {client}: does not train in round {fleet.round}; those who do: {turns}")
    fleet.send_and_receive(message for message in messages if message.metadata.dst_node_id == client)
    return rounds.client_row(fleet.round, fleet.rows[0], plan)


def _evaluate(rounds: Rounds, fleet: Fleet, start: Checkpoint, client: int) -> Row:
    """What its evaluation adds to the row."""
    messages = rounds.configure_evaluate(fleet.round, start.vector, fleet)
    if client not in fleet.cohort:
        raise ConfigError(f"--client {client}: holds out no data; those who do: {list(fleet.cohort)}")
    fleet.send_and_receive(message for message in messages if message.metadata.dst_node_id == client)
    return client_metrics(fleet.rows[0])


def _go_to(cfg: DictConfig, folder: Path, round: int, copy: Path, scratch: Path) -> Checkpoint:
    """The run as it was after `round`, in a folder of its own."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("figures", ".hydra", "model.safetensors"))
    store = Store(copy, every=1)
    store.forget(after=round)
    only = {"num_rounds": round, "figures": False, "checkpoint": {"every": 1}, "on_client_failure": "skip"}
    shorter = OmegaConf.merge(cfg, only)
    assert isinstance(shorter, DictConfig)
    start = store.restore(shorter)
    if start is None or start.round < round:
        first = start.round + 1 if start else 0
        note(f"there is no checkpoint of round {round}: repeating from round {first} on")
        data = scratch / "before"
        data.mkdir()
        record = Journal(copy, shorter)
        if start is not None:
            start.put_back({"journal": record})
        run(shorter, copy, data, record, store, start, lambda: None)
        start = Store(copy, every=1).restore(shorter)
    if start is None or start.round != round:
        raise RunError(f"{folder}: the run could not be brought to round {round} again")
    return start


def _debugged(turn: Callable[[], Row], stop_at: Callable[..., Any]) -> Row:
    """Call `turn` in pdb, which stops where `stop_at` begins."""
    code: CodeType = stop_at.__code__  # type: ignore[attr-defined]
    line = min(line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno)
    debugger = pdb.Pdb()
    debugger.rcLines += [f"tbreak {code.co_filename}:{line}", "continue"]
    row: Row = debugger.runcall(turn)  # type: ignore[assignment]
    return row


def _recorded(folder: Path, round: int, client: int) -> Mapping[str, str] | None:
    """The row of clients.csv."""
    with (folder / "clients.csv").open(newline="", encoding="utf-8") as stream:
        rows = (row for row in csv.DictReader(stream) if (row["round"], row["client"]) == (str(round), str(client)))
        return next(rows, None)


def _compare(row: Row, recorded: Mapping[str, str] | None) -> int:
    """Print the row, and where it is not what was recorded; 0 where it is."""
    known: Mapping[str, str] = recorded or {}
    agree = recorded is not None
    for name, value in row.items():
        text = "" if value is None else str(value)
        same = text == known.get(name, text)
        agree &= same
        print(f"{name:<20} {text}" + ("" if same else f"   clients.csv: {known[name]}"))
    if recorded is None:
        print("clients.csv has no such row")
    else:
        print("the same as in clients.csv" if agree else "not what is in clients.csv")
    return 0 if agree else 1
