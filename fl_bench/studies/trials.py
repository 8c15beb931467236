"""What a tuning has tried and is going to try: the points are Optuna's, the record is a file that is replaced whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fl_bench import rng
from fl_bench.errors import ConfigError, Damaged
from fl_bench.storage import files
from fl_bench.studies.sweep import TUNING

RUNNING, COMPLETE, PRUNED, FAILED = "running", "complete", "pruned", "failed"
# Optuna forgets what has failed; what is stopped before its first value it takes for the worst.
STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.PRUNED}
DIGITS = 5
DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"higher": "maximize", "lower": "minimize"}


@dataclass
class Trial:
    """Values for the searched keys, and what the metric was after so many rounds."""

    params: dict[str, Any]
    values: dict[int, float] = field(default_factory=dict)
    state: str = RUNNING

    @property
    def value(self) -> float | None:
        """What it is judged by: nothing, unless it was run to the end."""
        return self.latest if self.state == COMPLETE else None

    @property
    def latest(self) -> float:
        """The metric after the most rounds."""
        return self.values[max(self.values)]


@dataclass
class Tuning:
    """All trials by arm, in the order in which they were asked for, and the value of each arm as it is by default.

    `of` says what is tuned, with the words of all runs and of each arm: a tuning that goes on must be of the same.
    `space` has Optuna's distributions by arm and key.
    """

    of: dict[str, Any]
    space: dict[str, dict[str, BaseDistribution]]
    better: Literal["higher", "lower"] | None = None
    defaults: dict[str, float | None] = field(default_factory=dict)
    trials: dict[str, list[Trial]] = field(default_factory=dict)

    def known(self, arm: str, params: Mapping[str, Any], rounds: int) -> float | None:
        """The value of this point after so many rounds, if a trial had it."""
        found = (t.values[rounds] for t in self.trials[arm] if t.params == params and rounds in t.values)
        return next(found, None)

    def best(self, arm: str) -> tuple[int, Trial] | None:
        """The best trial of an arm, the first of equals, and its number; None where all have failed."""
        complete = [(number, trial) for number, trial in enumerate(self.trials[arm]) if trial.state == COMPLETE]
        return min(complete, key=lambda entry: self.order(entry[1].latest), default=None)

    def order(self, value: float) -> float:
        """Smaller for what is better."""
        return -value if self.better == "higher" else value

    def ask(self, arm: str, count: int, seed: int) -> None:
        """Let an arm have `count` trials, where it has fewer; a point follows from the seed and the trials before.

        Where there are finitely many points none is tried twice: the next takes its place, and an arm whose points
        have all been tried gets no more.
        """
        trials, study, space = self.trials[arm], self.study(arm), self.space[arm]
        choices = _finite(space)
        while len(trials) < count:
            drawn = rng.generator(seed, "trial", len(trials)).integers(2**32)
            study.sampler = optuna.samplers.TPESampler(seed=int(drawn))
            proposed = {key: _short(value, space[key]) for key, value in study.ask(space).params.items()}
            if choices:
                tried = [trial.params for trial in trials]
                points = (dict(zip(space, point, strict=True)) for point in product(*choices))
                new = next((point for point in (proposed, *points) if point not in tried), None)
                if new is None:
                    break
                proposed = new
            trials.append(Trial(proposed))

    def study(self, arm: str) -> optuna.Study:
        """The finished trials of an arm as a study of Optuna's, in memory."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction=DIRECTIONS[str(self.better)], study_name=arm)
        study.add_trials([_frozen(trial, self.space[arm]) for trial in self.trials[arm] if trial.state != RUNNING])
        return study

    def save(self, folder: Path) -> None:
        space = {
            arm: {key: optuna.distributions.distribution_to_json(drawn) for key, drawn in keys.items()}
            for arm, keys in self.space.items()
        }
        trials = {arm: [asdict(trial) for trial in found] for arm, found in self.trials.items()}
        record = {name: getattr(self, name) for name in ("of", "better", "defaults")}
        files.write(folder / TUNING, f"{json.dumps(record | {'space': space, 'trials': trials}, indent=1)}\n".encode())

    @classmethod
    def load(cls, folder: Path) -> "Tuning":
        """The tuning in a folder; ConfigError where there is none, Damaged where it cannot be read."""
        if not (folder / TUNING).is_file():
            raise ConfigError(f"{folder}: is not the folder of a tuning: it has no {TUNING}")
        try:
            found = json.loads((folder / TUNING).read_text())
            space = {
                arm: {key: optuna.distributions.json_to_distribution(text) for key, text in keys.items()}
                for arm, keys in found.pop("space").items()
            }
            trials = {arm: list(map(_trial, entries)) for arm, entries in found.pop("trials").items()}
            return cls(**found, space=space, trials=trials)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Damaged(f"{folder / TUNING}: is damaged: {' '.join(str(error).split())}") from error


def prune(tuning: Tuning, trials: Sequence[Trial], rounds: int, kept: int) -> None:
    """End those of a batch that are not among the `kept` best after so many rounds, the first of equals."""
    ranked = sorted((t for t in trials if rounds in t.values), key=lambda trial: tuning.order(trial.values[rounds]))
    for trial in ranked[kept:]:
        if trial.state == RUNNING:
            trial.state = PRUNED


def _finite(space: Mapping[str, BaseDistribution]) -> list[Sequence[Any]]:
    """The values of each key, or nothing where a key has endlessly many."""
    found: list[Sequence[Any]] = []
    for drawn in space.values():
        if isinstance(drawn, IntDistribution):
            found.append(range(drawn.low, drawn.high + 1, drawn.step))
        elif isinstance(drawn, CategoricalDistribution):
            found.append(drawn.choices)
    return found if len(found) == len(space) else []


def _short(value: Any, drawn: BaseDistribution) -> Any:
    """A number in a few digits, which people can read and copy."""
    if not isinstance(drawn, FloatDistribution):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), drawn.low), drawn.high)


def _frozen(trial: Trial, space: dict[str, BaseDistribution]) -> FrozenTrial:
    return create_trial(
        state=STATES[trial.state],
        value=trial.value,
        params=trial.params,
        distributions=space,
        intermediate_values=trial.values,
    )


def _trial(entry: dict[str, Any]) -> Trial:
    return Trial(entry["params"], {int(rounds): value for rounds, value in entry["values"].items()}, entry["state"])
