"""The command's side of a run: starts it, watches it, starts it again where that helps, and leaves nothing behind."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.build import build
from fl_bench.config.changes import changes, matters, with_horizons
from fl_bench.config.origin import Origin
from fl_bench.config.paths import initial_model
from fl_bench.engines.base import Engine
from fl_bench.errors import (
    AGAIN,
    AGAIN_SMALLER,
    ConfigError,
    Damaged,
    FlBenchError,
    RunError,
    known,
    note,
    plain,
    refuse,
)
from fl_bench.machine import oom_kills
from fl_bench.runs.begin import Start, claim, resume_command, write_snapshot
from fl_bench.runs.process import Arm, Crashed, in_own_process
from fl_bench.runs.scratch import scratch_folder
from fl_bench.storage import run_json
from fl_bench.storage.folder import clear

Tell = Callable[[str], None]  # how far a run has come

STOPS = {"patience": "metric", "max_megabytes": "max_megabytes"}  # keys of early_stop, and what sets them to work


def launch(cfg: DictConfig, folder: Path, start: Start, origin: Origin, tell: Tell | None = None) -> int:
    """Run in `folder`, or go on there, and return the exit code; errors are printed and recorded here.

    `tell` is told of each round, in place of the person at the terminal.

    Until the first round is about to begin, nothing changes in a folder that has a run. A new one has its run.json at
    once, so that it can go on wherever it is killed; where it is refused before its first round, its files go again.
    """
    try:
        with _alone(folder):
            start = claim(folder, start)
            if start is Start.RESUME:
                cfg = _with_its_horizons(cfg, folder, origin)
            if start is Start.RESUME and (done := _done(cfg, folder)):
                print(plain(f"{folder}\n{done}"))
                return 0
            file = initial_model(cfg)
            if start is Start.OVERWRITE and file is not None and folder.absolute() in file.absolute().parents:
                raise ConfigError(f"model.init={cfg.model.init}: is in the folder of the run that this one replaces")
            engine = build(cfg.engine, Engine)
            announce(cfg, origin)
            if start is Start.NEW:
                run_json.save(folder, run_json.new(cfg, origin))
                write_snapshot(folder, origin)
            code = _run(cfg, engine, folder, start, origin, tell)
            if start is Start.NEW and code == ConfigError.exit_code:
                _forget(folder)
            return code
    except (FlBenchError, OSError) as error:
        return refuse(known(error))


def announce(cfg: DictConfig, origin: Origin) -> None:
    """Say at once what is going to run: torch takes seconds to import, and Ray to start."""
    task, strategy = (origin.choices.get(group) for group in ("task", "strategy"))
    what = f"{task} with {strategy}, " if task else ""
    size = f"{cfg.num_clients} clients, {cfg.num_rounds} rounds"
    print(f"fl-bench: {plain(what)}{size}: preparing engine and data", file=sys.stderr, flush=True)


def _run(cfg: DictConfig, engine: Engine, folder: Path, start: Start, origin: Origin, tell: Tell | None) -> int:
    """As many attempts as it takes and the engine allows."""
    left, replaced = engine.restarts, run_json.read(folder) if start is Start.OVERWRITE else None
    while True:
        kills = oom_kills()
        try:
            code = _attempt(cfg, engine, folder, start, origin, tell)
            if code not in (AGAIN, AGAIN_SMALLER):
                return code
            why = run_json.read(folder).get("error", "the run has failed")
        except Crashed as error:
            code, why = AGAIN, str(error)
        untouched = run_json.read(folder) == replaced
        if not left and untouched:
            return refuse(RunError(why), f"{folder}: the run there is as it was")
        if not left:
            with suppress(OSError):  # a full disk may be why
                run_json.close(folder, why)
            return refuse(RunError(why), f"to go on: {resume_command(folder, cfg)}")
        where = "from the last checkpoint" if cfg.checkpoint.every else "from the beginning"
        note(f"{why}; starting again {where} ({left} more times)")
        left, start = left - 1, Start.OVERWRITE if untouched else Start.RESUME
        if code == AGAIN_SMALLER or oom_kills() > kills:
            engine.shrink()


def _attempt(cfg: DictConfig, engine: Engine, folder: Path, start: Start, origin: Origin, tell: Tell | None) -> int:
    """One process of the run, or this one where the engine wants that."""
    with scratch_folder() as scratch:

        def execute(arm: Arm) -> int:
            from fl_bench.runs.execute import execute  # torch and Flower: seconds, once the config is known to be right

            return execute(cfg, folder, scratch, start, arm, engine, origin, tell)

        return in_own_process(execute, engine.patience_s) if engine.own_process else execute(lambda on: None)


def _with_its_horizons(cfg: DictConfig, folder: Path, origin: Origin) -> DictConfig:
    """The config of a run that goes on, whose schedules and budgets are for as many rounds as when it began."""
    try:
        record = run_json.read_run(folder)
    except (Damaged, ConfigError):  # its checkpoints say whether the config is the same
        return cfg
    return with_horizons(cfg, record["config"], record.get("choices"), origin.named)


def _forget(folder: Path) -> None:
    """Remove the files of a new run that was refused before anybody trained, so that another may begin here."""
    record = run_json.read(folder)
    if record.get("status") == run_json.STATUS[ConfigError.exit_code] and len(record["digests"]) < 2:  # round 0's
        clear(folder, but="")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of this folder, so that one run at a time uses it; the run's own process inherits the lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: a run is going on in it") from None
        except OSError:
            note(f"{folder}: this file system has no locks: see that only one run at a time uses it")
        yield
    finally:
        os.close(descriptor)


def _done(cfg: DictConfig, folder: Path) -> str | None:
    """What to say if this run is finished already; None if it is not."""
    try:
        record = run_json.read(folder)
    except Damaged:
        return None
    if record.get("status") != "done":
        return None
    if changed := run_json.changed(folder, record):
        note(f"{folder}: {', '.join(changed)} is not what the run wrote: going on from its last checkpoint")
        return None
    new: Any = OmegaConf.to_container(cfg, resolve=True)
    different = changes(record["config"], new, record.get("choices"))
    if any(map(matters, different)):
        return None
    if "num_rounds" not in different and not record["stopped_early"]:
        return f"all {cfg.num_rounds} rounds were done before"
    if record["stopped_early"] and not different.keys() & {
        *(f"early_stop.{key}" for key in STOPS),
        "strategy.max_epsilon",
    }:
        keys = [f"early_stop.{key}" for key, of in STOPS.items() if new["early_stop"][of] is not None]
        why = f"{' or '.join(keys)} would be the key" if keys else "its epsilon is spent"
        return f"stopped early after round {record['final'].get('round')} before; {why}"
    return None
