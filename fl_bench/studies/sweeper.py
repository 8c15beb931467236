"""Hydra's part of a sweep that says which cells there are: hydra/sweeper=grid, which sweeps have by default."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fl_bench.errors import note, plain
from fl_bench.storage import run_json
from fl_bench.storage.folder import clear
from fl_bench.studies.arms import keys_of
from fl_bench.studies.ending import sum_up
from fl_bench.studies.sweep import begin


class Grid(Sweeper):
    """All combinations of the values with commas, for each arm: words that belong together, see `arms.py`."""

    def __init__(self, arms: Sequence[Sequence[str]]) -> None:
        self.arms = arms

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.given = hydra_context, config
        self.launch = Plugins.instance().instantiate_launcher(hydra_context, task_function, config).launch

    def sweep(self, arguments: list[str]) -> list[object]:
        """What the cells return; the first that has failed raises its error."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # here: looking for plugins loads it anew

        folder = begin(self.given)
        overrides = OverridesParser.create(self.context.config_loader).parse_overrides(arguments)
        (cells,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        jobs = [[*arm, *cell] for arm in self.arms or [[]] for cell in cells]
        ended = self.launch(jobs, initial_job_idx=0)
        if self.given.overwrite:
            _replace(folder, ended)
        sum_up(folder, keys_of(self.arms))
        print(plain(folder))
        return [returned.return_value for returned in ended]


def _replace(sweep: Path, ended: Sequence[JobReturn]) -> None:
    """Delete the runs that were there before, but for the folders that these cells have used; where one fails, none."""
    used = {str(returned.working_dir) for returned in ended}
    before = [file.parent for file in sweep.glob(f"*/{run_json.NAME}") if str(file.parent) not in used]
    if before and any(isinstance(returned._return_value, Exception) for returned in ended):
        note(f"overwrite=true: the {len(before)} other runs in {sweep} stay, as not all of these cells have ended well")
        return
    for folder in before:
        clear(folder, but="")
        with suppress(OSError):  # there are files of the user's
            folder.rmdir()
