"""What it costs to come to a value, and in all."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fl_bench.errors import ConfigError
from fl_bench.studies.statistics import EQUAL
from fl_bench.studies.study import Study

COSTS = {"round": "rounds_to", "steps": "steps_to", "bytes": "bytes_to", "virtual_seconds": "virtual_seconds_to"}
ARM = ["setting", "arm", "also"]
WHOLE = ("steps", "bytes", "virtual_seconds", "wall_seconds")
Targets = Mapping[str, Sequence[float]]  # by setting
Baselines = Mapping[str, str]  # an arm by setting


def named(baselines: Baselines, several: str) -> str:
    """The baseline, where it is one for all settings, or the words for several."""
    return next(iter(baselines.values())) if len({*baselines.values()}) == 1 else several


def targets_of(
    study: Study, counted: pd.DataFrame, metric: str, baselines: Baselines, target: float | None
) -> tuple[Targets, str]:
    """The values to come to in each setting, and a sentence that says whence they are.

    `baselines` are arms by setting; `counted` has a column `base`, whether a run is of them.
    """
    if not (target is None or (isinstance(target, int | float) and np.isfinite(target))):
        raise ConfigError(f"--target {target}: must be a number")
    settings = counted["setting"].unique()
    chosen = {value for text in counted["targets"].dropna() for value in json.loads(text)}
    if target is not None:
        return {setting: [target] for setting in settings}, f"Target: {target:g}, as --target says.{_MEDIANS}"
    if chosen and (counted["target_metric"] == metric).all():
        return {setting: sorted(chosen) for setting in settings}, f"Targets: those of the config.{_MEDIANS}"
    ends = study.rounds.groupby("run")[metric].last().reindex(counted.index)[counted["base"]]
    means = ends.groupby(counted["setting"]).mean()
    sentence = f"Target: the mean at which {named(baselines, 'its first arm')} ends in the setting.{_MEDIANS}"
    return {str(setting): [float(mean)] for setting, mean in means.items()}, sentence


_MEDIANS = " Costs up to it are medians over runs, in which a run that never reaches it counts as the last."


def costs_of(study: Study, counted: pd.DataFrame, metric: str, better: str | None, targets: Targets) -> pd.DataFrame:
    """A row for each setting, arm and target.

    setting, arm, also, runs, target, reached (by how many runs), rounds_to, steps_to, bytes_to and virtual_seconds_to
    (medians, infinite where the middle run never reaches it), and steps, bytes, virtual_seconds and wall_seconds of
    whole runs (means). Steps are NaN where those of a run are unknown. Without a direction of the metric, or a baseline
    in the setting, target is NaN.
    """
    rows = []
    tables = dict(iter(study.rounds.groupby("run")))
    arms = (
        (key, runs) for _, here in counted.groupby("setting", sort=False) for key, runs in here.groupby(ARM, sort=False)
    )
    for (setting, arm, also), runs in arms:
        row = {"setting": setting, "arm": arm, "also": also, "runs": len(runs)}
        row |= {name: float(runs[name].mean(skipna=False)) for name in WHOLE}
        for target in targets.get(str(setting), [np.nan]) if better else [np.nan]:
            first = pd.DataFrame([first_at(tables[run], metric, better, target) for run in runs.index])
            reached = int(np.isfinite(first["round"]).sum())
            middle = {COSTS[name]: float(first[name].median(skipna=False)) for name in COSTS}
            rows.append(row | {"target": target, "reached": reached} | middle)
    return pd.DataFrame(rows)


def first_at(table: pd.DataFrame, metric: str, better: str | None, target: float) -> dict[str, float]:
    """The round, and the costs up to its end, in which a run first is at the target; infinite where it never is."""
    slack = EQUAL * abs(target)  # a mean of equal numbers may be a rounding away from them
    there = table[table[metric] <= target + slack] if better == "lower" else table[table[metric] >= target - slack]
    return {name: float(there[name].iloc[0]) if len(there) else np.inf for name in COSTS}
