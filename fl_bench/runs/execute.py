"""One run, top to bottom: from a checked config, or a checkpoint, to the files in its folder."""

import gc
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import save

from fl_bench import errors
from fl_bench.build import build, find_target
from fl_bench.config.changes import refuse_changes
from fl_bench.config.origin import UNKNOWN, Origin
from fl_bench.engines.resources import check_gpus, share_gpus
from fl_bench.errors import note
from fl_bench.federation import flower_log
from fl_bench.federation.local import Trainer
from fl_bench.federation.rounds import Rounds
from fl_bench.observers.album import Album
from fl_bench.observers.console import Reporter, summary
from fl_bench.observers.journal import Journal
from fl_bench.runs import experiment
from fl_bench.runs.process import Watch
from fl_bench.storage import files, run_json
from fl_bench.storage.checkpoint import Checkpoint, Store
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.tasks.base import Task


def execute(
    cfg: DictConfig,
    folder: Path,
    scratch: Path,
    resume: bool = False,
    watch: Watch = lambda on: None,
    origin: Origin = UNKNOWN,
) -> int:
    """Run, print where the results are or in one line why there are none, and return the exit code.

    The results go to `folder`; what the workers read, and nobody needs afterwards, to `scratch`. With `resume` the run
    goes on from the newest checkpoint in `folder`, if there is one. `watch` is
    told with each round that somebody should see to it that there is a next one, and at the end that nobody need.
    """
    store = Store(folder, cfg.checkpoint.every)
    try:
        start = store.restore(cfg, origin) if resume else None
        if resume and start is None:
            _begin_anew(cfg, folder)
    except (errors.FlBenchError, OSError) as error:  # the record of the run stays as it is
        return errors.refuse(errors.known(error))
    record = Journal(folder, cfg, origin)
    try:
        if start is None:
            store.clear()
        else:
            start.put_back({"journal": record})
            note(f"{folder}: going on after round {start.round}")
        record.save()
        run(cfg, folder, scratch, record, store, start, watch)
        record.end(0)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("FL_BENCH_DEBUG"):
            traceback.print_exc()
        return _fail(errors.known(error), record, store, origin.sweep)
    print(f"{folder}\n{summary(record.record['final'])}  ({record.costs})")
    return 0


def run(
    cfg: DictConfig, folder: Path, scratch: Path, record: Journal, store: Store, start: Checkpoint | None, watch: Watch
) -> None:
    """Everything from the data to the figures."""
    flower_log.quieten()
    torch.set_num_threads(cfg.engine.threads)
    check_gpus(cfg.engine)
    engine = find_target(cfg.engine)
    task: Task = build(cfg.task)
    strategy = experiment.make_strategy(cfg.strategy.server)
    # The workers build theirs from the resolved config, whose errors name other keys.
    for node in (cfg.strategy.client, cfg.compression.up, cfg.compression.down):
        build(node)
    trainer = None
    if cfg.engine.client_resources.num_gpus == "auto":
        trainer = experiment.prepare(cfg, task, scratch)
        share_gpus(cfg.engine, trainer)
    with engine(cfg.engine) as connect:  # the workers start while the data is prepared
        trainer = trainer or experiment.prepare(cfg, task, scratch)
        schedule = experiment.make_schedule(cfg, trainer)
        record.use(experiment.data_digests(cfg, scratch))
        experiment.try_out(cfg, trainer, strategy)
        together = experiment.train_together(cfg, trainer)
        experiment.write_partition(trainer, folder)
        album = Album(folder / "figures") if cfg.figures else None
        if album is not None:
            album.clear(after=start.round if start else -1)
        parts = [type(part) for part in (task, strategy, trainer.algorithm)]
        title = " ".join(part.__name__ for part in parts if part is not LocalAlgorithm)
        with Reporter(title, cfg.num_rounds) as reporter:

            def report(row: Mapping[str, Any]) -> None:
                reporter.show(row)
                watch(True)

            rounds = Rounds(cfg, strategy, trainer, schedule, store, record, album, report)
            fleet = experiment.make_fleet(cfg, connect(), scratch, store.states, trainer, together)
            gc.freeze()  # some of Flower's strategies collect garbage for every client: not all of torch each time
            watch(True)
            try:
                vector = rounds.run(fleet, start)
            finally:
                watch(False)
                gc.unfreeze()
    trainer.load(vector)
    _save_model(trainer, folder)
    if album is not None:
        from fl_bench.results import figures  # matplotlib takes a second to import

        figures.draw(folder)
        album.bind()
        if not trainer.personal:
            trainer.task.figures(trainer.flat.model, trainer.data, folder / "figures")


def _begin_anew(cfg: DictConfig, folder: Path) -> None:
    """Say so where a run cannot go on. Raises ConfigError where it has another config: what there is would be lost."""
    if "config" in (before := run_json.read(folder)):
        refuse_changes(before["config"], cfg, 0, before.get("choices"))
        note(f"{folder}: there is no checkpoint: beginning anew")


def _fail(error: errors.FlBenchError, record: Journal, store: Store, sweep: str) -> int:
    """Record and say how a run has failed, and what can be done; returns the exit code."""
    try:
        record.end(error.exit_code, " ".join(str(error).split()))
    except OSError:  # the disk is full: what is there must do
        note(f"{store.folder}: run.json is not up to date")
    if isinstance(error, errors.WorkerDied):  # who has launched this will say it
        return errors.AGAIN_SMALLER if error.out_of_memory else errors.AGAIN
    if sweep and isinstance(error, errors.Interrupted):
        return errors.refuse(error, f"to go on with the sweep: {sweep}")
    if not (error.resumable and (saved := store.rounds())):
        return errors.refuse(error)
    return errors.refuse(error, f"saved up to round {saved[-1]}; to go on: fl-bench resume {store.folder}")


def _save_model(trainer: Trainer, folder: Path) -> None:
    """model.safetensors: the global model, as far as there is one."""
    tensors = {name: tensor for name, tensor in trainer.flat.model.state_dict().items() if name not in trainer.private}
    content = save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()})
    files.write(folder / "model.safetensors", content)
