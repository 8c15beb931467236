"""Hydra's part of a sweep whose cells run side by side: hydra/launcher=parallel, which sweeps have by default."""

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from fl_bench.config.compose import options, with_option
from fl_bench.config.paths import SHARED
from fl_bench.engines.simulation import prepare
from fl_bench.errors import ConfigError, FlBenchError, Interrupted, refuse
from fl_bench.machine import num_cpus
from fl_bench.runs.launch import launch
from fl_bench.runs.process import Arm, in_own_process
from fl_bench.runs.scratch import scratch_folder
from fl_bench.storage import run_json
from fl_bench.studies.board import Board
from fl_bench.studies.cells import Cell, folder_name, placed

ENDED = "ended.json"  # a file in the temporary folder: how each cell has ended
INLINE = "inline"


class CellFailed(FlBenchError):
    """A run has failed, and has said so; the error has its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Ended(JobReturn):
    """What Hydra's sweepers get of a cell: its metric, or the error that it has failed, which it has said itself."""

    @property  # type: ignore[misc]  # Hydra's own would say it again, over two lines
    def return_value(self) -> Any:
        if isinstance(self._return_value, CellFailed):
            raise self._return_value
        return self._return_value


class Parallel(Launcher):
    """Runs cells on the inline engine as tasks of one Ray, as many at a time as `sweep.parallel` says.

    The task function makes a Cell of each config, where Hydra's other launchers have it run. One after another, in
    this process and on the engine of the config, run: a cell that is alone, all cells with sweep.parallel=1, and those
    of a sweep that asks for an engine of several processes.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config
        self.sweep = Path(str(config.hydra.sweep.dir))
        self.again = ""  # the command that goes on with this sweep
        self.pool: Any = None  # the workers that launches share, while there are any

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        self.sweep.mkdir(parents=True, exist_ok=True)
        jobs = dict(enumerate(job_overrides, start=initial_job_idx))
        ended = self._run(jobs) if self.pool else self.together(lambda: self._run(jobs), job_overrides)
        failed = CellFailed(max(code for _, code in ended))
        return [
            Ended(_return_value=failed if code else metric(self.sweep / name), working_dir=str(self.sweep / name))
            for name, code in ended
        ]

    def together(self, work: Callable[[], Any], jobs: Sequence[Sequence[str]]) -> Any:
        """Call `work`, whose launches share one Ray, and return what JSON makes of what it returns.

        `jobs` are as many, and as the cells of its largest launch. It is called in a process of its own, as in a
        simulation, so that nothing of Ray is left, however it ends; in this one where cells run one after another.
        """
        if (parallel := _parallel(self.config, jobs)) == 1:
            return work()
        with scratch_folder() as scratch:

            def run(arm: Arm) -> int:
                try:
                    (scratch / ENDED).write_text(json.dumps(self._on_ray(work, parallel, scratch)))
                    return 0
                except CellFailed as failed:
                    return failed.exit_code
                except KeyboardInterrupt:
                    hint = f"to go on with the sweep: {self.again}" if self.again else ""
                    return refuse(Interrupted("stopped by Ctrl-C"), hint)

            if (code := in_own_process(run)) == Interrupted.exit_code:
                raise KeyboardInterrupt
            if code:
                raise CellFailed(code)
            return json.loads((scratch / ENDED).read_text())

    def _run(self, jobs: dict[int, Sequence[str]]) -> list[tuple[str, int]]:
        """The names of the cells' folders and their exit codes."""
        return self._side_by_side(jobs) if self.pool else self._one_by_one(jobs)

    def _one_by_one(self, jobs: dict[int, Sequence[str]]) -> list[tuple[str, int]]:
        ended = []
        configs, names = self._placed(jobs)
        for name, cell in zip(names, self._cells(configs, names), strict=True):
            code = (
                refuse(cell)
                if isinstance(cell, FlBenchError)
                else launch(cell.cfg, cell.folder, cell.start, cell.origin)
            )
            gc.collect()  # the files that a run has mapped stay open as long as anything of it is there
            if code == Interrupted.exit_code:
                raise KeyboardInterrupt
            ended.append((name, code))
        return ended

    def _on_ray(self, work: Callable[[], Any], parallel: int, scratch: Path) -> Any:
        if (address := _address(self.config)) is None:
            prepare(scratch)
            os.environ[SHARED] = str(scratch / "data")  # which the workers inherit
        from fl_bench.studies.workers import Pool  # Ray: a second; it reads its settings when it is imported

        with Pool(self.sweep, parallel, address) as self.pool:
            return work()

    def _side_by_side(self, jobs: dict[int, Sequence[str]]) -> list[tuple[str, int]]:
        """In the workers of the pool, which import torch while the cells are composed here."""
        configs, names = self._placed(jobs)
        with Board(names, self.pool.parallel) as board:
            codes = self.pool.run(map(self._inline, self._cells(configs, names)), board)
        return [(name, codes[number]) for number, name in enumerate(names)]

    def _inline(self, cell: Cell | FlBenchError) -> Cell | FlBenchError:
        """The cell on the engine of one process."""
        if isinstance(cell, FlBenchError):
            return cell
        self.again = cell.origin.sweep
        cfg = cell.cfg.copy()
        cfg.engine = with_option(cfg, "engine", options("engine")[INLINE])
        origin = replace(cell.origin, choices={**cell.origin.choices, "engine": INLINE}, sweep="")
        return replace(cell, cfg=cfg, origin=origin)

    def _placed(self, jobs: dict[int, Sequence[str]]) -> tuple[list[DictConfig], list[str]]:
        """The configs of the cells, Hydra's own in them, and the names of their folders."""
        composed = (self._compose(number, words) for number, words in jobs.items())
        configs, plain, wishes = map(list, zip(*composed, strict=True))
        return configs, placed(plain, wishes, self.sweep)

    def _cells(self, configs: Sequence[DictConfig], names: Sequence[str]) -> Iterator[Cell | FlBenchError]:
        """The cells; an error in place of one that is refused."""
        for config, name in zip(configs, names, strict=True):
            with read_write(config.hydra):
                config.hydra.sweep.subdir = name
            returned = run_job(self.task, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
            found = returned._return_value
            if returned.status is JobStatus.FAILED and not isinstance(found, FlBenchError):
                raise found
            yield found

    def _compose(self, number: int, words: Sequence[str]) -> tuple[DictConfig, DictConfig, str]:
        """The config of a cell with Hydra's own and without, and what its folder would be called."""
        config = self.context.config_loader.load_sweep_config(self.config, list(words))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            cfg = config.copy()
            with read_write(cfg), open_dict(cfg):
                del cfg["hydra"]
                OmegaConf.resolve(cfg)
            return config, cfg, folder_name(str(config.hydra.sweep.subdir))
        finally:
            HydraConfig.instance().cfg = before


def metric(folder: Path) -> float | None:
    """The value of the target metric with which the run in this folder has ended."""
    record = run_json.read_run(folder)
    value = record["final"].get(record["config"].get("target_metric"))
    return None if value is None else float(value)


def _parallel(config: DictConfig, jobs: Sequence[Sequence[str]]) -> int:
    """How many cells run at a time."""
    wish, engines = config.sweep.parallel, {word for words in jobs for word in words if word.startswith("engine=")}
    several = engines - {f"engine={INLINE}"}
    if several and wish not in (1, "auto"):
        raise ConfigError(f"sweep.parallel={wish}: side by side cells run on engine=inline; leave out engine=...")
    if several:
        return 1
    if wish == "auto" and _address(config) is None:
        wish = max(1, int(num_cpus() / config.engine.client_resources.num_cpus))
    return len(jobs) if wish == "auto" else min(wish, len(jobs))  # Ray knows what a cluster has


def _address(config: DictConfig) -> str | None:
    """That of the Ray cluster which the words name."""
    address: str | None = config.engine.get("ray", {}).get("address")
    return address
