"""The search of a tuning: which runs there are, and what becomes of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from fl_bench.config.cells import refuse_cells
from fl_bench.config.changes import apart
from fl_bench.config.compose import SEARCH
from fl_bench.errors import ConfigError, RunError, note
from fl_bench.metrics import Metric, metric_of
from fl_bench.storage import run_json
from fl_bench.studies.launcher import CellFailed
from fl_bench.studies.space import Arm, arms_of, borders, horizons, split
from fl_bench.studies.sweep import EXCLUDED, RESUME, TUNING
from fl_bench.studies.trials import COMPLETE, FAILED, RUNNING, Tuning, prune
from fl_bench.studies.tuned import shown, write
from fl_bench.studies.tuner import BETTER, KEPT, Wish

SHARES = (9, 3, 1)  # a rung ends after one in so many of all rounds
VALIDATION, SHARE = "evaluate.validation", 0.1  # of the training rows, where the user does not say
REFUSED = {
    "seed": "hydra.sweeper.seeds (--seeds) has the seeds of a tuning",
    "overwrite": "a tuning is not replaced; choose another hydra.sweep.dir",
}


class Search:
    """The same number of trials for each arm. A trial is a run for each of the seeds, its value their metric's mean.

    Trials are asked for in batches, of all arms at once. A rung keeps the best of each batch of each arm, so that arms
    get the same number of rounds too; who stays goes on with its runs. All that is known is written after each rung,
    and all that is asked for follows from it and the seeds: a tuning that is killed goes on as if nothing had happened.
    """

    def __init__(
        self,
        wish: Wish,
        loader: ConfigLoader,
        given: DictConfig,
        launch: Callable[..., Sequence[JobReturn]],
        arguments: Sequence[str],
    ) -> None:
        self.wish, self.launch, self.folder = wish, launch, Path(str(given.hydra.sweep.dir))
        self.compose = partial(loader.load_sweep_config, given)
        overrides = OverridesParser.create(loader).parse_overrides(list(arguments))
        self.named = {override.key_or_group for override in overrides}
        if refused := [key for key in REFUSED if key in self.named]:
            raise ConfigError(f"{refused[0]}: {REFUSED[refused[0]]}")
        sources = {source.provider: source.path for source in given.hydra.runtime.config_sources}
        own = sources.get("command-line")
        words = split(overrides, wish.per, Path(own) if own else None, wish.arms)
        self.fixed = [word for word in words.fixed if word.lower() != RESUME]
        configs = [self.compose([*self.fixed, *arm]) for arm in words.arms.values()]
        self.arms = arms_of(words, configs)
        self.rounds, *others = {cfg.num_rounds for cfg in configs}
        if others:
            raise ConfigError("num_rounds: must be the same for all arms, whose budget is the same")
        search = [word for word in given.hydra.overrides.hydra if word.startswith(SEARCH)]
        for arm in self.arms:
            ends = [f"{key}={','.join(map(str, borders(drawn)))}" for key, drawn in arm.space.items()]
            refuse_cells([*self.fixed, *arm.words, *ends, *search], Path(own) if own else None)
        if VALIDATION not in self.named and not all(cfg.evaluate.validation for cfg in configs):
            self.fixed.append(f"{VALIDATION}={SHARE}")
            note(f"{VALIDATION}={SHARE}: so much of the training data is kept to choose by")
        self.tuning = self._tuning()

    @property
    def largest(self) -> list[list[str]]:
        """As many words as there are runs of a whole batch, of which nothing is known yet."""
        runs = self.wish.batch * len(self.wish.seeds)
        return [[*self.fixed, *arm.words] for arm in self.arms for _ in range(runs)]

    def run(self) -> dict[str, float]:
        """The best value of each arm that has one, by its label; RunError where none has."""
        tuning, labels = self.tuning, [arm.label for arm in self.arms]
        if not tuning.defaults:
            values = self._measure([(arm, {}) for arm in self.arms], self.rounds)
            tuning.defaults = dict(zip(labels, values, strict=True))
        if tuning.better is None:
            raise RunError("hydra.sweeper.direction=null: no arm could be run as it is, to say which way is better")
        for start in range(0, self.wish.trials, self.wish.batch):
            self._batch(start)
            write(tuning, self.folder)
        print(shown(tuning))
        best = {arm: found[1].latest for arm in labels if (found := tuning.best(arm))}
        for arm, value in best.items():
            if (default := tuning.defaults[arm]) is not None and tuning.order(default) <= tuning.order(value):
                note(f"{arm}: no trial is better than the arm as it is by default")
        if not best:
            raise RunError(f"{labels[0]}: all its trials have failed")
        return best

    def _tuning(self) -> Tuning:
        """What the folder has of this tuning; ConfigError where it has another."""
        space = {arm.label: dict(arm.space) for arm in self.arms}
        of: dict[str, Any] = {"words": self.fixed, "arms": {arm.label: list(arm.words) for arm in self.arms}}
        of |= {"space": {arm: {key: str(drawn) for key, drawn in keys.items()} for arm, keys in space.items()}}
        of |= {"rounds": self.rounds, "seeds": list(self.wish.seeds)}
        of |= {name: getattr(self.wish, name) for name in ("metric", "direction", "prune", "batch")}
        if not (self.folder / TUNING).is_file():
            return Tuning(of, space, BETTER[self.wish.direction], trials={arm: [] for arm in space})
        tuning = Tuning.load(self.folder)
        for key, (before, now) in apart(tuning.of, of).items():
            raise ConfigError(
                f"hydra.sweep.dir={self.folder}: has a tuning with {key} {before}, not {now}; choose another"
            )
        return tuning

    def _batch(self, start: int) -> None:
        """Let each arm have the trials of one batch, the first of which has the number `start`."""
        tuning, end = self.tuning, min(start + self.wish.batch, self.wish.trials)
        for arm in self.arms:
            tuning.ask(arm.label, end, self.wish.seeds[0])
        tuning.save(self.folder)
        batches = {arm.label: tuning.trials[arm.label][start:end] for arm in self.arms}
        shares = SHARES if self.wish.prune != "none" else SHARES[-1:]
        for rounds in sorted({max(1, self.rounds // share) for share in shares}):
            last = rounds == self.rounds
            alive = [(arm, trial) for arm in self.arms for trial in batches[arm.label] if trial.state == RUNNING]
            going = [(arm, trial) for arm, trial in alive if rounds not in trial.values]
            values = self._measure([(arm, trial.params) for arm, trial in going], rounds)
            for (_, trial), value in zip(going, values, strict=True):
                if value is None:
                    trial.state = FAILED
                else:
                    trial.values[rounds] = value
                    trial.state = COMPLETE if last else RUNNING
            for trials in batches.values():
                prune(tuning, trials, rounds, len(trials) if last else max(1, len(trials) // KEPT[self.wish.prune]))
            tuning.save(self.folder)

    def _measure(self, points: Sequence[tuple[Arm, Mapping[str, Any]]], rounds: int) -> list[float | None]:
        """The metric at these points after so many rounds, in the mean over the seeds; None where a run fails."""
        known = [self.tuning.known(arm.label, params, rounds) for arm, params in points]
        jobs = [
            [tuple(self._words(arm, params, rounds, seed)) for seed in self.wish.seeds] if value is None else []
            for (arm, params), value in zip(points, known, strict=True)
        ]
        new = list(dict.fromkeys(words for runs in jobs for words in runs))  # two trials may be at one point
        ended = self.launch([list(words) for words in new], initial_job_idx=0) if new else []
        values = dict(zip(new, map(self._value, ended), strict=True))
        means = [_mean([values[words] for words in runs]) for runs in jobs]
        return [mean if value is None else value for value, mean in zip(known, means, strict=True)]

    def _words(self, arm: Arm, params: Mapping[str, Any], rounds: int, seed: int) -> list[str]:
        """The words of a run, whose folder is named by the arm, the point and the seed."""
        point = [*arm.words, *(f"{key}={value}" for key, value in params.items()), f"seed={seed}"]
        ours = [*horizons(self.compose([*self.fixed, *point])), "figures=false"]
        ours = [word for word in ours if word.partition("=")[0] not in self.named]
        fixed = [word for word in self.fixed if not word.startswith("num_rounds=")]
        words = [*fixed, *ours, f"num_rounds={rounds}", RESUME]
        excluded = [word.partition("=")[0].lstrip("+~") for word in words]
        return [*words, *point, f"{EXCLUDED}[{','.join(excluded)}]"]

    def _value(self, ended: JobReturn) -> float | None:
        """The metric with which a run has ended; None where it has failed, or the metric is not finite."""
        try:
            _ = ended.return_value
        except CellFailed as failed:
            if failed.exit_code == ConfigError.exit_code:
                raise
            return None
        record = run_json.read_run(Path(str(ended.working_dir)))
        if self.wish.metric not in record["final"]:
            known = ", ".join(name for name in record["final"] if "_" in name)
            raise ConfigError(f"hydra.sweeper.metric={self.wish.metric}: must be one of these runs' {known}")
        if self.tuning.better is None:
            metrics = {name: Metric(name, better) for name, better in record["better"].items()}
            found = metric_of(self.wish.metric, metrics)
            if found is None:
                wish = "is not one that the task declares; add hydra.sweeper.direction"
                raise ConfigError(f"hydra.sweeper.metric={self.wish.metric}: {wish}")
            self.tuning.better = found.better
        value = float(record["final"][self.wish.metric])
        return value if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a value is missing, or all are."""
    there = [value for value in values if value is not None]
    return fmean(there) if there and len(there) == len(values) else None
