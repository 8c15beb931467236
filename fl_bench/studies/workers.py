"""Cells of a sweep as tasks of one Ray: on this machine, or on a cluster's machines, which may share no disk."""

import gc
import importlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from uuid import uuid4

import ray

from fl_bench.engines.cluster import connect
from fl_bench.errors import ConfigError, FlBenchError
from fl_bench.machine import package
from fl_bench.runs.begin import Start
from fl_bench.runs.launch import launch
from fl_bench.storage import files
from fl_bench.storage.temporary import locked_folder, remove_left
from fl_bench.studies.board import DONE, FAILED, Board
from fl_bench.studies.cells import Cell

LOOK_SECONDS = 0.5  # between two looks for what the cells say of themselves
GRACE_SECONDS = 8.0  # for cells to make their files whole after Ctrl-C
# What most cells import, for seconds: while the driver still composes their configs.
PRELOADED = ("fl_bench.runs.execute", "fl_bench.engines.inline_grid", "torchvision", "matplotlib.pyplot")
SAYS = "fl-bench: "  # how the lines begin that people should see
NOTE = "note: "


@dataclass(frozen=True)
class Outcome:
    """How a cell has ended: its exit code, what it said; where no disk is shared, its new files by their names too, and
    the names of those that have gone.
    """

    code: int
    said: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    gone: Sequence[str] = ()
    died: bool = False  # the worker, and the cell with it


class Progress:
    """How far the cells have come, for who has the table; an actor."""

    def __init__(self) -> None:
        self.said: dict[int, str] = {}

    def tell(self, cell: int, text: str) -> None:
        self.said[cell] = text

    def read(self) -> dict[int, str]:
        return self.said


class Pool:
    """The workers of a sweep, of which each runs one cell at a time; a context, after which nothing of Ray is left."""

    def __init__(self, sweep: Path, parallel: int, address: str | None) -> None:
        self.parallel, self.is_cluster = parallel, address is not None
        connect(address)
        self.task: Any = ray.remote(max_retries=0)(_run)
        self.token = sweep / f".{uuid4().hex}"  # who sees this file shares the disk
        self.running: dict[Any, tuple[int, Cell]] = {}
        preload = ray.remote(num_cpus=1)(_preload)
        self.warm = [preload.remote() for _ in range(parallel)]

    def __enter__(self) -> "Pool":
        files.write(self.token, b"")
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self.token.unlink()
        ray.shutdown()

    def run(self, cells: Iterable[Cell | FlBenchError], board: Board) -> dict[int, int]:
        """The exit codes of the cells by their numbers, when all have ended; a cell is asked for when there is room.

        One whose worker dies goes on elsewhere, once. Ctrl-C lets those that run end as a run does, and raises
        KeyboardInterrupt.
        """
        codes: dict[int, int] = {}
        coming, again, died = enumerate(cells), list[tuple[int, Cell]](), set[int]()
        actor: Any = ray.remote(num_cpus=0)(Progress)
        progress = actor.remote() if board.console.is_terminal else None
        try:
            while True:
                while len(self.running) < self.parallel and (entry := again.pop() if again else next(coming, None)):
                    number, cell = entry
                    board.begin(number)
                    if isinstance(cell, FlBenchError):
                        codes[number] = cell.exit_code
                        board.end(number, FAILED, str(cell))
                    else:
                        self.running[self._submit(number, cell, progress)] = (number, cell)
                if not self.running:
                    return codes
                ended, _ = ray.wait(list(self.running), timeout=LOOK_SECONDS)
                if progress:
                    board.tell(ray.get(progress.read.remote()))
                for task in ended:
                    number, cell = self.running.pop(task)
                    outcome = _outcome(task)
                    if outcome.died and number not in died:
                        died.add(number)
                        again.append((number, replace(cell, start=Start.RESUME)))
                        why = outcome.said[-1].removeprefix(SAYS)
                        board.note(f"{board.names[number]}: {why}; going on with it, once")
                        continue
                    codes[number] = outcome.code
                    _end(number, cell, outcome, board)
        except KeyboardInterrupt:
            for task in self.running:
                ray.cancel(task, force=False)
            ray.wait(list(self.running), num_returns=len(self.running), timeout=GRACE_SECONDS)
            raise

    def _submit(self, number: int, cell: Cell, progress: Any) -> Any:
        """The task of a cell, which Ray has begin where there is room."""
        resources = cell.cfg.engine.client_resources
        gpus = resources.get("num_gpus", 0)
        if gpus == "auto":  # all cells share those that there are
            gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / self.parallel)
        task = self.task.options(num_cpus=resources.num_cpus, num_gpus=gpus)
        there = _contents(cell.folder) if self.is_cluster and cell.start is not Start.NEW else {}
        return task.remote(cell, self.token, there, progress, number, package())


def _outcome(task: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(task)
        return outcome
    except ray.exceptions.RayTaskError as error:
        return Outcome(1, [f"{SAYS}{type(error.cause).__name__}: {error.cause}"])
    except ray.exceptions.RayError as error:  # its process was killed, or its machine has gone
        why = " ".join(str(error).split()).partition(". ")[0]  # what comes then is on Ray's logs
        return Outcome(1, [f"{SAYS}its worker has died: {why}"], died=True)


def _end(number: int, cell: Cell, outcome: Outcome, board: Board) -> None:
    """Put the files of a cell where they belong, and say how it has ended."""
    for name, content in outcome.files.items():
        (cell.folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(cell.folder / name, content)
    for name in outcome.gone:
        (cell.folder / name).unlink(missing_ok=True)
    ours = [line.removeprefix(SAYS) for line in outcome.said if line.startswith(SAYS)]
    for line in ours:
        if line.startswith(NOTE):
            board.note(line.removeprefix(NOTE))
    if outcome.code:
        errors = [line for line in ours if not line.startswith(NOTE)]
        board.end(number, FAILED, errors[-1] if errors else "")
    else:
        board.end(number, DONE, outcome.said[-1])


def _preload() -> None:
    for name in PRELOADED:
        importlib.import_module(name)


def _run(
    cell: Cell, token: Path, there: Mapping[str, bytes], progress: Any, number: int, driver: tuple[str, str]
) -> Outcome:
    """A cell, in a worker; `there` is what its folder has, for a machine that does not see it."""
    if package()[0] != driver[0]:
        why = f"its fl-bench is {' in '.join(package())}, and that of the command is {' in '.join(driver)}"
        return Outcome(ConfigError.exit_code, [f"{SAYS}{why}"])
    tell: Callable[[str], None] = (lambda text: progress.tell.remote(number, text)) if progress else lambda text: None
    if token.exists():
        return _launch(cell, tell)
    remove_left(gettempdir())
    with locked_folder(gettempdir()) as scratch:
        folder = scratch / "run"
        folder.mkdir()
        for file, content in there.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        outcome = _launch(replace(cell, folder=folder), tell)
        now = _contents(folder)
        new = {name: content for name, content in now.items() if there.get(name) != content}
        return replace(outcome, files=new, gone=[name for name in there if name not in now])


def _launch(cell: Cell, tell: Callable[[str], None]) -> Outcome:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = launch(cell.cfg, cell.folder, cell.start, cell.origin, tell)
    gc.collect()  # the files that a run has mapped stay open as long as anything of it is there
    return Outcome(code, said.getvalue().splitlines())


def _contents(folder: Path) -> dict[str, bytes]:
    """The files of a run by their names below its folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
