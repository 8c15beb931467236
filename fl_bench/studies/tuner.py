"""Hydra's part of a tuning: hydra/sweeper=tune, which finds the best of each arm with the same budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fl_bench.errors import ConfigError
from fl_bench.studies.launcher import Parallel
from fl_bench.studies.sweep import begin

KEPT = {"none": 1, "halving": 3, "median": 2}  # a rung keeps one in so many
BETTER: dict[str | None, Literal["higher", "lower"] | None] = {None: None, "maximize": "higher", "minimize": "lower"}
UNFAIR = "a result that was chosen by it is too good; name a validation_ metric, or say on_test=true (--on-test) too"


@dataclass(frozen=True)
class Wish:
    """How to tune: the keys of conf/hydra/sweeper/tune.yaml; ConfigError where one cannot be."""

    trials: int
    batch: int
    metric: str
    direction: str | None
    on_test: bool
    seeds: Sequence[int]
    prune: str
    per: Sequence[str]
    arms: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        seeds = self.seeds if isinstance(self.seeds, Sequence) else ()
        numbers = [seed for seed in seeds if isinstance(seed, int) and seed >= 0]
        for key, fits, wish in (
            ("trials", isinstance(self.trials, int) and self.trials > 0, "must be a number from 1"),
            ("batch", isinstance(self.batch, int) and self.batch > 0, "must be a number from 1"),
            ("direction", self.direction in BETTER, "must be maximize or minimize; null: as the task declares"),
            ("seeds", 0 < len(seeds) == len({*numbers}), "must be a list of numbers from 0, each once"),
            ("prune", self.prune in KEPT, f"must be one of {', '.join(KEPT)}"),
            ("metric", self.on_test or str(self.metric).startswith("validation_"), f"is not of validation: {UNFAIR}"),
        ):
            if not fits:
                raise ConfigError(f"hydra.sweeper.{key}={getattr(self, key)} (--{key}): {wish}")


class Tune(Sweeper):
    """The search itself is in search.py, with Optuna and pandas, which other sweeps need not import."""

    def __init__(self, **wish: Any) -> None:
        self.wish = Wish(**wish)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.given = hydra_context, config
        self.launcher: Any = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> dict[str, float]:
        """The best value of each arm, by its label; the folder has all else."""
        from fl_bench.studies.search import Search

        search = Search(self.wish, self.context.config_loader, self.given, self.launcher.launch, arguments)
        search.tuning.save(begin(self.given))  # so that whoever goes on says the same words, whenever it is stopped
        if isinstance(self.launcher, Parallel):
            return dict(self.launcher.together(search.run, search.largest))
        return search.run()
