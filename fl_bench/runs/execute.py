"""One run, top to bottom: from a checked config, or a checkpoint, to the files in its folder."""

import gc
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from omegaconf import DictConfig
from safetensors.torch import save
from torch import Tensor

from fl_bench import errors
from fl_bench.build import build
from fl_bench.compression.base import Codec
from fl_bench.config.changes import identity, refuse_changes
from fl_bench.config.origin import UNKNOWN, Origin
from fl_bench.config.paths import INIT, MODEL
from fl_bench.data import split
from fl_bench.data.labels import countable
from fl_bench.deployment import told
from fl_bench.engines.base import Engine
from fl_bench.engines.resources import limit_gpus, share_gpus
from fl_bench.errors import note
from fl_bench.federation import flower_log
from fl_bench.federation.local import Trainer
from fl_bench.federation.rounds import Experiment, Round, RoundFailed, Rounds
from fl_bench.metrics import metric_of
from fl_bench.observers.album import Album, album_of
from fl_bench.observers.base import Observer
from fl_bench.observers.budget import Budget
from fl_bench.observers.checkpoints import Checkpoints
from fl_bench.observers.console import Console, Teller, summary
from fl_bench.observers.guard import Guard
from fl_bench.observers.heartbeat import Heartbeat
from fl_bench.observers.journal import Journal
from fl_bench.observers.ledger import Ledger, ledger_of
from fl_bench.observers.recorder import Recorder
from fl_bench.observers.tracker import Tracker, Tracking
from fl_bench.robust.base import Rule
from fl_bench.runs import experiment, published
from fl_bench.runs.begin import Start, resume_command, write_snapshot
from fl_bench.runs.prepare import data_digests, prepare
from fl_bench.runs.process import Arm
from fl_bench.runs.size import size_of, write_parts
from fl_bench.runs.vertical import check_setting
from fl_bench.storage import files, run_json
from fl_bench.storage.checkpoint import Checkpoint, Store
from fl_bench.storage.run_json import STATUS
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.server import own_part
from fl_bench.tasks.base import Task


def execute(
    cfg: DictConfig,
    folder: Path,
    scratch: Path,
    begin: Start = Start.NEW,
    arm: Arm = lambda on: None,
    engine: Engine | None = None,
    origin: Origin = UNKNOWN,
    tell: Callable[[str], None] | None = None,
) -> int:
    """Run, print where the results are or in one line why there are none, and return the exit code.

    The results go to `folder`; what nobody needs afterwards, to `scratch`. Where a run is there already, nothing of it
    changes before all parts of this one have been made and the workers are there. `arm` starts the timeout of a round
    anew, or stops it. `engine` is that of the config, which may have shrunk by now. `tell` hears of the
    rounds, in place of the terminal.
    """
    store, journal = Store(folder, cfg.checkpoint.every, identity(cfg)), Journal(folder, cfg, origin)
    begun = begin is Start.NEW
    try:
        engine = engine or build(cfg.engine, Engine)
        store.states = engine.states(store.states)
        start = store.restore(cfg, origin) if begin is Start.RESUME else None
        if start is not None:
            start.put_back({journal.keeps: journal})
            note(f"{folder}: going on after round {start.round}")
        elif begin is Start.RESUME:
            _begin_anew(cfg, folder)
        tracker = build(cfg.tracker, Tracker)

        def observe(made: Experiment) -> list[Observer]:
            nonlocal begun
            data = data_digests(cfg, made.data)
            journal.use(data, made.trainer.metrics)
            ledger = ledger_of(made, start, engine.signers)
            if start is None:
                store.clear()
            else:
                store.settle()
            begun = True
            journal.save()
            write_snapshot(folder, origin)
            for name in (INIT, told.NAME):
                if (made.data / name).exists():
                    files.write(folder / name, (made.data / name).read_bytes())
            tracking = Tracking(tracker, folder, store.tables.rows("metrics"))
            return [*_observers(made, store, start, journal, ledger, tell), Heartbeat(arm), tracking]

        made, journal.record["stopped_early"] = run(cfg, engine, scratch, store, start, observe)
        if made.trainer.test_batches:  # there is a whole model, and a test set
            made.trainer.task.tables(made.trainer.flat.model, made.trainer.data, folder)
        if cfg.figures:
            _draw(made)
        rows, best = store.tables.rows("metrics"), journal.record["best"]
        journal.record["published"] = beside = published.compare(cfg, origin, rows, best, made.trainer.metrics)
        journal.end(0)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if os.environ.get("FL_BENCH_DEBUG"):
            traceback.print_exc()
        known = errors.known(error)
        return _fail(known, journal, store, origin.sweep) if begun else _give_up(known, folder)
    print(f"{errors.plain(folder)}\n{summary(journal.record['final'], made.trainer.metrics)}  ({journal.costs})")
    if beside:
        print(errors.plain(published.said(beside)))
    return 0


@errors.no_exit()
def run(
    cfg: DictConfig,
    engine: Engine,
    scratch: Path,
    store: Store,
    start: Checkpoint | None,
    observe: Callable[[Experiment], Sequence[Observer]],
) -> tuple[Experiment, bool]:
    """From the data to the model of the last round; `observe` says who is told of the rounds.

    Returns the experiment, whose trainer has that model, and whether an observer wanted no more rounds.
    """
    flower_log.quieten()
    torch.set_num_threads(engine.threads)
    limit_gpus(engine)
    task = build(cfg.task, Task)
    strategy = experiment.make_strategy(cfg.strategy.server)
    # The workers build theirs from the resolved config, whose errors name other keys.
    build(cfg.strategy.client, LocalAlgorithm)
    build(cfg.robust, Rule, seed=cfg.seed)
    check_setting(cfg, task, strategy, [build(node, Codec) for node in (cfg.compression.up, cfg.compression.down)])
    data = engine.place(scratch)
    trainer = None
    if engine.resources["num_gpus"] == "auto":
        trainer = prepare(cfg, task, data)
        share_gpus(engine, trainer)
    with engine.workers(scratch) as connect:  # they start while the data is prepared
        trainer = trainer or prepare(cfg, task, data, engine.ask)
        made = experiment.make(cfg, strategy, trainer, data, store)
        together = experiment.train_together(engine, trainer)
        if start is not None:
            start.put_back(made.parts)
        rounds = Rounds(made, experiment.make_fleet(made, connect(), together))
        observers = observe(made)
        rounds.ends = lambda round: any(observer.ends_with(round) for observer in observers)
        with closing(observers), _no_garbage():
            last = tell(observers, iter(rounds) if start is None else rounds.after(start.round, start.vector))
    if last is not None:
        trainer.load(last.vector)
    elif start is not None:
        trainer.load(start.vector)
    _save_model(trainer, store.folder, own_part(strategy).tensors())
    return made, any(observer.stops for observer in observers)


def _observers(
    made: Experiment,
    store: Store,
    start: Checkpoint | None,
    journal: Journal,
    ledger: Sequence[Ledger],
    said: Callable[[str], None] | None,
) -> list[Observer]:
    """Who is told of a round, in this order: it is whole on disk before anybody hears of it."""
    cfg, trainer = made.cfg, made.trainer
    if not trainer.weighting.hidden:
        split.write(trainer.data, trainer.partition, trainer.unseen, made.folder)
    made.topology.write(made.folder)
    write_parts(trainer, made.folder)
    journal.record["classes"] = list(trainer.data.classes)
    journal.record["num_clients"] = trainer.num_clients
    journal.record["model"] = size_of(trainer, cfg.local.batch_size)
    guard = Guard(cfg, metric_of(cfg.early_stop.metric or "", trainer.metrics))
    if start is not None:
        start.put_back({guard.keeps: guard})
    observers = [Recorder(store.tables), *ledger, *album_of(made, start), journal, guard]
    if (privacy := getattr(made.strategy, "privacy", None)) is not None:
        observers.append(Budget(privacy, start.round if start else 0, cfg.num_rounds))
    kept = {observer.keeps: observer for observer in observers if observer.keeps}
    title = " ".join(
        type(part).__name__
        for part in (trainer.task, made.strategy, trainer.algorithm)
        if type(part) is not LocalAlgorithm
    )
    known = cfg.num_rounds, trainer.metrics
    heard: Observer = Console(title, *known) if said is None else Teller(said, *known)
    return [*observers, Checkpoints(store, cfg, made.parts | kept), heard]


def tell(observers: Sequence[Observer], rounds: Iterator[Round]) -> Round | None:
    """Tell the observers of each round, until there are no more, or one of them wants no more; returns the last."""
    last = None
    for observer in observers:
        observer.begin()
    try:
        while not any(observer.stops for observer in observers) and (round := next(rounds, None)):
            for observer in observers:
                observer.see(round)
            last = round
    except RoundFailed as failed:
        for observer in observers:
            observer.fail(failed)
        raise
    return last


@contextmanager
def closing(observers: Sequence[Observer]) -> Iterator[None]:
    """Close them at the end, whatever ends it."""
    status = STATUS[0]
    try:
        yield
    except BaseException as error:
        status = STATUS[errors.known(error).exit_code]
        raise
    finally:
        for observer in observers:
            observer.close(status)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Garbage is collected often, by some of Flower's strategies and by figures: not from all of torch each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@_no_garbage()
def _draw(made: Experiment) -> None:
    """The figures of a run that is over."""
    from fl_bench.ledger.figure import chain_of_blocks  # matplotlib takes a second to import
    from fl_bench.results import figures

    trainer, data = made.trainer, made.trainer.data
    names = [split.ANY] if trainer.partition.elsewhere else countable(data.train["y"], data.classes)[1]
    figures.draw(made.folder, trainer.num_clients, names)
    Album(made.folder / "figures", trainer, made.cfg.num_rounds).bind()
    if made.cfg.ledger.signed:
        chain_of_blocks(made.folder)
    if trainer.shows:
        trainer.task.figures(trainer.flat.model, data, made.folder / "figures")


def _begin_anew(cfg: DictConfig, folder: Path) -> None:
    """Say so where a run cannot go on. Raises ConfigError where it has another config: what there is would be lost."""
    if "config" in (before := run_json.read(folder)):
        refuse_changes(before["config"], cfg, 0, before.get("choices"))
        note(f"{folder}: there is no checkpoint: beginning anew")


def _fail(error: errors.FlBenchError, journal: Journal, store: Store, sweep: str) -> int:
    """Record and say how a run has failed, and what can be done; returns the exit code."""
    try:
        journal.end(error.exit_code, " ".join(str(error).split()))
    except OSError:  # the disk is full: what is there must do
        note(f"{store.folder}: run.json is not up to date")
    if isinstance(error, errors.WorkerDied):  # who has launched this will say it
        return errors.AGAIN_SMALLER if error.out_of_memory else errors.AGAIN
    if sweep and isinstance(error, errors.Interrupted):
        return errors.refuse(error, f"to go on with the sweep: {sweep}")
    if not (error.resumable and (saved := store.rounds())):
        return errors.refuse(error)
    how = resume_command(store.folder, journal.record["config"])
    return errors.refuse(error, f"saved up to round {saved[-1]}; to go on: {how}")


def _give_up(error: errors.FlBenchError, folder: Path) -> int:
    """Say why a run could not begin, or go on, where there is one, which stays as it is; returns the exit code."""
    with suppress(OSError):
        if not isinstance(error, errors.ConfigError) and run_json.read(folder).get("status") == "running":
            run_json.close(folder, str(error))  # it was killed, and nobody runs it now
    if isinstance(error, errors.WorkerDied):
        note(str(error))
        return errors.AGAIN_SMALLER if error.out_of_memory else errors.AGAIN
    return errors.refuse(error)


def _save_model(trainer: Trainer, folder: Path, servers: Mapping[str, Tensor]) -> None:
    """model.safetensors: the global model, as far as there is one, and the server's own part."""
    tensors = {name: tensor for name, tensor in trainer.flat.model.state_dict().items() if name not in trainer.private}
    tensors |= servers
    content = save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()})
    files.write(folder / MODEL, content)
