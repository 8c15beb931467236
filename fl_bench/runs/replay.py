"""One client's turn once more, exactly as it was: to see why it failed, or that its numbers are what was written."""

import pdb
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

from flwr.app import Message
from omegaconf import DictConfig, OmegaConf

from fl_bench.build import build
from fl_bench.config.changes import identity
from fl_bench.config.rules import MASKS, at_sites
from fl_bench.deployment.told import Told
from fl_bench.engines.base import Engine
from fl_bench.engines.resources import limit_gpus
from fl_bench.errors import ConfigError, Damaged, RunError, no_exit, note, plain
from fl_bench.federation import flower_log, rows
from fl_bench.federation.local import Trainer, Vector
from fl_bench.federation.rounds import Experiment, Rounds
from fl_bench.federation.rows import Row
from fl_bench.network.schedule import Plan
from fl_bench.observers.base import Observer
from fl_bench.observers.checkpoints import Checkpoints
from fl_bench.observers.recorder import Recorder
from fl_bench.runs.execute import run
from fl_bench.runs.experiment import make, make_fleet, make_strategy
from fl_bench.runs.prepare import prepare
from fl_bench.runs.scratch import scratch_folder
from fl_bench.storage import run_json
from fl_bench.storage.checkpoint import Checkpoint, Store
from fl_bench.storage.files import digest
from fl_bench.storage.states import StatesElsewhere
from fl_bench.storage.tables import rows_of
from fl_bench.strategies.server import Exchanges
from fl_bench.tasks.base import Task


@no_exit()
def replay(cfg: DictConfig, folder: Path, round: int, client: int, evaluation: bool, debug: bool) -> int:
    """Show a client's numbers in a round of the run in `folder` beside those of its clients.csv; 0 where they agree.

    `cfg` is the run's, on the inline engine, or on the sites that have its clients. What the round began with comes
    from a checkpoint; without one the rounds before it are repeated, but not at sites. Nothing in `folder` is changed.
    With `debug` the turn begins in pdb.
    """
    known = round in (0, *Store(folder, 0).rounds())
    begun = round if evaluation and (known or at_sites(cfg)) else round - 1
    with rounds_after(cfg, folder, begun) as (rounds, vector):
        if evaluation and begun < round:
            vector = rounds.train(round, vector).vector
        turn = partial(_evaluate if evaluation else _train, rounds, round, vector, client)
        row = _debugged(turn, Trainer.evaluate_client if evaluation else Trainer.train) if debug else turn()
    hidden = cfg.secure_aggregation == MASKS
    return 1 if row is None else _compare(row, _recorded(folder, round, client), hidden)


@contextmanager
def rounds_after(cfg: DictConfig, folder: Path, begun: int) -> Iterator[tuple[Rounds, Vector]]:
    """The rounds of the run in `folder`, as they were when round `begun` was over, and the model of then.

    `cfg` is as `replay` takes it. No client's turn is masked.
    """
    flower_log.quieten()
    engine = build(cfg.engine, Engine)
    limit_gpus(engine)
    if engine.vectorize != "off":
        note("the run stacked clients into one program; one alone gives the same numbers only but for rounding")
    with scratch_folder() as scratch:
        if at_sites(cfg):
            store, start = _as_kept(cfg, engine, folder, begun)
        else:
            start = _go_to(cfg, engine, folder, begun, scratch)
            store = Store(scratch / "run", 0, start.run)
        data = engine.place(scratch)
        trainer = prepare(cfg, build(cfg.task, Task), data, lambda _: Told.open(folder))
        strategy = make_strategy(cfg.strategy.server)
        experiment = make(cfg, strategy, trainer, data, store)
        if start is not None:
            start.put_back(experiment.parts)
        vector = trainer.untrained() if start is None else start.vector
        if digest(vector) not in run_json.read(folder)["digests"][begun : begun + 1]:
            note(f"the run went on from another model after round {begun}")
        with engine.workers(scratch) as connect:
            yield Rounds(experiment, make_fleet(experiment, connect(), alone=True)), vector


def turns(rounds: Rounds, number: int, vector: Vector, client: int | None) -> tuple[dict[int, Message], Plan]:
    """What the strategy sends those who train in a round, by client, and the round's plan.

    Raises ConfigError where `client` is none of them.
    """
    messages, plan = rounds.configure_train(number, vector)
    by_client = {message.metadata.dst_node_id: message for message in messages}
    by_client = {other: message for other, message in sorted(by_client.items()) if other not in plan.dropping}
    if client is not None and client not in by_client:
        raise ConfigError(f"--client {client}: does not train in round {number}; those who do: {list(by_client)}")
    return by_client, plan


def _train(rounds: Rounds, number: int, vector: Vector, client: int) -> Row:
    """The client's row as its training makes it."""
    by_client, plan = turns(rounds, number, vector, client)
    if isinstance(rounds.strategy, Exchanges):  # what a client is sent later follows from what the others have sent
        return next(row for row in rounds.train(number, vector).clients if row["client"] == client)
    (answer,) = rounds.fleet.exchange([by_client[client]], plan)
    bytes_down = rounds.trainer.channel.bytes_down + rounds.trainer.layout.unplanned(vector)
    return rows.trained(answer, plan, bytes_down)


def _evaluate(rounds: Rounds, number: int, vector: Vector, client: int) -> Row:
    """What its evaluation adds to the row."""
    unseen = client >= len(rounds.trainer.partition.ends)
    messages, plan = rounds.configure_evaluate(number, vector, unseen)
    by_client = {message.metadata.dst_node_id: message for message in messages}
    if client not in by_client:
        raise ConfigError(f"--client {client}: is not evaluated; those who are: {sorted(by_client)}")
    (answer,) = rounds.fleet.exchange([by_client[client]], plan)
    return rows.of_evaluation(answer, columns=rounds.columns_of_strangers if unseen else rows.CLIENTS)


def _as_kept(cfg: DictConfig, engine: Engine, folder: Path, round: int) -> tuple[Store, Checkpoint | None]:
    """The run as it was after `round`, with what its clients keep at their sites; None where nobody had trained yet.

    Raises ConfigError where there is no checkpoint: the sites do not keep what no checkpoint needs.
    """
    store = Store(folder, 0, identity(cfg))
    store.states = states = engine.states(store.states)
    assert isinstance(states, StatesElsewhere)
    states.aside = True
    known = store.rounds()
    if round not in known and round:
        has = ", ".join(map(str, known)) or "none"
        wish = "at sites it can only be begun from a checkpoint, with what clients kept then"
        raise ConfigError(f"--round: there is no checkpoint of round {round} (there are: {has}); {wish}")
    if round not in known:
        return store, None
    start = store.read(round)
    states.run = start.run
    start.put_back({"states": states})
    return store, start


def _go_to(cfg: DictConfig, engine: Engine, folder: Path, round: int, scratch: Path) -> Checkpoint:
    """The run as it was after `round`, in the folder `run` of scratch."""
    copy = scratch / "run"
    copy.mkdir()
    for name in ("metrics.csv", "clients.csv", "timing.csv"):
        shutil.copy(folder / name, copy)
    for name in ("checkpoint", "state"):
        if (folder / name).exists():
            shutil.copytree(folder / name, copy / name)
    store = Store(copy, every=1)
    store.keep(range(round + 1))
    failure = "skip" if cfg.on_client_failure == "abort" else cfg.on_client_failure
    only = {"num_rounds": round, "figures": False, "checkpoint": {"every": 1}, "on_client_failure": failure}
    shorter = OmegaConf.merge(cfg, only)
    assert isinstance(shorter, DictConfig)
    try:
        start = store.restore(shorter)
    except Damaged as error:
        raise Damaged(str(error).replace(str(copy), str(folder))) from None
    if start is None:
        store.clear()
    else:
        store.settle()
    if start is None or start.round < round:
        note(f"there is no checkpoint of round {round}: repeating from round {start.round + 1 if start else 0} on")
        before = scratch / "before"
        before.mkdir()

        def observe(made: Experiment) -> list[Observer]:
            return [Recorder(store.tables), Checkpoints(store, shorter, made.parts)]

        run(shorter, engine, before, store, start, observe)
        start = Store(copy, every=1).restore(shorter)
    if start is None or start.round != round:
        raise RunError(f"{folder}: the run could not be brought to round {round} again")
    return start


def _debugged(turn: Callable[[], Row], stop_at: Callable[..., Any]) -> Row | None:
    """Call `turn` in pdb, which stops where `stop_at` begins; None where the user quits."""
    code: CodeType = stop_at.__code__  # type: ignore[attr-defined]
    line = min(line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno)
    debugger = pdb.Pdb()
    debugger.rcLines += [f"tbreak {code.co_filename}:{line}", "continue"]
    return debugger.runcall(turn)


def _recorded(folder: Path, round: int, client: int) -> Mapping[str, str] | None:
    """The row of clients.csv."""
    wanted = str(round), str(client)
    rows = rows_of(folder / "clients.csv")
    return next((row for row in rows if (row.get("round"), row.get("client")) == wanted), None)


def _compare(row: Row, recorded: Mapping[str, str] | None, hidden: bool) -> int:
    """Print the row, and where it is not what was recorded; 0 where it is, as far as masks have not `hidden` it."""
    known: Mapping[str, str] = recorded or {}
    agree = recorded is not None
    for name, value in row.items():
        text = "" if value is None else str(value)
        written = known.get(name, "")
        same = text == written or (name == "why" and text in written)
        same |= hidden and (name in rows.COSTS or not written)
        agree &= same
        shown = "" if same or recorded is None else f"   clients.csv: {written or 'nothing'}"
        print(plain(f"{name:<20} {text}{shown}"))
    if recorded is None:
        print("clients.csv has no such row")
    else:
        same_as = "the same as in clients.csv" + (", of which masks have hidden the most" if hidden else "")
        print(same_as if agree else "not what is in clients.csv")
    return 0 if agree else 1
