"""The model of a run, measured without training."""

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fl_bench.build import build
from fl_bench.config.changes import identity
from fl_bench.config.paths import MODEL
from fl_bench.config.rules import at_sites, require
from fl_bench.deployment.told import Told
from fl_bench.engines.base import Engine
from fl_bench.engines.resources import limit_gpus
from fl_bench.errors import ConfigError, no_exit, note, plain
from fl_bench.federation import flower_log
from fl_bench.federation.local import Trainer
from fl_bench.federation.rounds import Experiment, Round, Rounds
from fl_bench.models.initial import take
from fl_bench.observers.console import summary
from fl_bench.runs.experiment import given, make_fleet, make_schedule, make_strategy
from fl_bench.runs.prepare import data_digests, prepare
from fl_bench.runs.scratch import scratch_folder
from fl_bench.runs.topology import make_topology
from fl_bench.storage import files, run_json
from fl_bench.storage.checkpoint import Store
from fl_bench.storage.states import ClientStates, StatesElsewhere
from fl_bench.storage.temporary import locked_folder
from fl_bench.strategies.server import own_part
from fl_bench.tasks.base import Task
from fl_bench.topologies.base import Topology


@no_exit()
def evaluate(cfg: DictConfig, folder: Path, round: int | None, out: Path) -> int:
    """Print and write to `out` what the model of the run in `folder` is worth after `round`, or at its end.

    `cfg` is the run's, on the inline engine, with other data where the user wants. Nothing else in `folder` is changed.
    """
    flower_log.quieten()
    engine = build(cfg.engine, Engine)
    if engine.own_process:
        raise ConfigError(f"engine._target_={cfg.engine._target_}: a measurement has engine=inline; leave it out")
    limit_gpus(engine)
    record = run_json.read_run(folder)
    with scratch_folder() as scratch:
        data = engine.place(scratch)
        trainer = prepare(cfg, build(cfg.task, Task), data, lambda _: Told.open(folder))
        digests = data_digests(cfg, data)
        if others := [name for name, value in (record["data"] or {}).items() if digests.get(name) != value]:
            _refuse_other_meanings(cfg, record, trainer, others)
            note(f"not on what the run had: other {' and '.join(others)}")
        number, vector, run = model_after(folder, record, round, trainer)
        if trainer.partition.elsewhere and cfg.evaluate.clients:
            raise ConfigError("--clients: their rows are at the sites, which measure while a run goes on")
        if cfg.evaluate.clients:
            _refuse_states_elsewhere(folder, record)
            held = bool(trainer.partition.heldout_sizes.any())
            require("partition.holdout", cfg.partition.holdout, held, "no client holds out a sample for --clients")
        elif trainer.private and not (trainer.unseen.ends.size or cfg.setting):
            note("layers stay with the clients, so that the server has no whole model to test: add --clients")
        states = ClientStates(folder / "state", run)
        strategy, topology = make_strategy(cfg.strategy.server), make_topology(cfg, trainer)
        if cfg.evaluate.clients and type(topology) is not Topology:
            wish = "the run's model is not what these clients use; evaluate.clients=true measures theirs in the run"
            raise ConfigError(f"--clients: {wish}")
        (own := own_part(strategy)).use(given(trainer))
        if own.tensors():
            Store(folder, 0).read(number).put_back({"strategy": strategy})
        schedule = make_schedule(cfg, trainer, topology)
        made = Experiment(cfg, folder, data, strategy, trainer, schedule, states, topology)
        with engine.workers(scratch) as connect:
            measured = Rounds(made, make_fleet(made, connect())).evaluate(Round(number, vector, {"round": number}))
    rows = [measured.row, *measured.clients]
    columns = dict.fromkeys(["round", "client", *(name for row in rows for name in row)])
    files.write(out, files.csv_of([columns, *([row.get(name) for name in columns] for row in rows)]))
    print(plain(f"round {number}  {summary(measured.row, trainer.metrics)}\n{out}"))
    return 0


@no_exit()
def whole_model(cfg: DictConfig, folder: Path) -> nn.Module:
    """The model of the run in `folder` at its end, or at its last checkpoint, on the CPU.

    Leaves torch's generator and threads as they are. Raises ConfigError where layers stay with the clients.
    """
    threads = torch.get_num_threads()
    with locked_folder(gettempdir()) as scratch, torch.random.fork_rng():
        trainer = prepare(cfg, build(cfg.task, Task), scratch, lambda _: Told.open(folder))
        torch.set_num_threads(threads)
        if trainer.personal:
            names = ", ".join(sorted(trainer.personal))
            raise ConfigError(f"{folder}: has no whole model: {names} stay with the clients")
        trainer.load(model_after(folder, run_json.read_run(folder), None, trainer)[1])
        return trainer.flat.model.cpu()


def _refuse_other_meanings(cfg: DictConfig, record: Mapping[str, Any], trainer: Trainer, others: list[str]) -> None:
    """Raise ConfigError where a number in these data does not mean to the model what it meant in the run's."""
    now, before = OmegaConf.to_container(cfg.data, resolve=True), record["config"]["data"]
    chosen = {**now, "cache": None} != {**before, "cache": None}  # type: ignore[dict-item]
    if chosen and "data" in others and trainer.task.fits_rows:
        wish = "what a number stands for follows from the training rows; so far only the run's own data can be measured"
        raise ConfigError(f"data: with task={type(trainer.task).__name__.lower()} {wish}")
    names = list(trainer.data.classes)
    if trainer.task.tells_classes and record.get("classes") not in (None, names):
        first = next((a, b) for a, b in zip_longest(record["classes"], names) if a != b)
        raise ConfigError(f"data: its classes are not the run's, which has {first[0]} where these have {first[1]}")


def _refuse_states_elsewhere(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise ConfigError where clients may have kept something that is not here."""
    if not at_sites(record["config"]):
        return
    store, states = Store(folder, 0), StatesElsewhere(folder / "state")
    if known := store.rounds():
        store.read(known[-1]).put_back({"states": states})
    if states.versions or not known:
        wish = "what this run's clients keep lies at their sites; evaluate.clients=true measures it in the run"
        raise ConfigError(f"--clients: {wish}")


def model_after(
    folder: Path, record: Mapping[str, Any], round: int | None, trainer: Trainer
) -> tuple[int, NDArray[np.float32], str]:
    """The round, what its server sends [P, and the extras], and whose the clients' states are."""
    store, last = Store(folder, 0), record["final"].get("round")
    known = store.rounds()
    run = store.read(known[-1]).run if known else identity(OmegaConf.create(record["config"]))
    if round in (None, last) and record["status"] == "done" and (folder / MODEL).is_file():
        take(trainer.flat.model, folder / MODEL, str(folder / MODEL), trainer.private)
        return last, trainer.untrained(), run
    if not known:
        raise ConfigError(f"{folder}: has no model to measure: it has not ended, and has no checkpoint")
    if round is not None and round not in known:
        raise ConfigError(f"--round {round}: has no checkpoint; those that have: {', '.join(map(str, known))}")
    start = store.read(known[-1] if round is None else round)
    if not trainer.layout.fits(start.vector):
        sizes = f"{start.vector.size} numbers, and that of these data {trainer.layout.size}"
        raise ConfigError(f"{start.file}: its model has {sizes}")
    return start.round, start.vector, run
