"""What a tuning says: its trials, the best of each arm, what tuning gained, and which keys mattered."""

import shlex
from pathlib import Path

import optuna
import pandas as pd
import yaml

from fl_bench.storage import files
from fl_bench.studies.trials import COMPLETE, Tuning

TRIALS, BEST, ARMS = "trials.csv", "best.csv", "best.yaml"


def trials(tuning: Tuning) -> pd.DataFrame:
    """A row for each trial: arm, trial (its number), state, value, a column for each key, and one for each rung.

    The value of a trial that was stopped is empty; round_N has the metric after N rounds.
    """
    rows = [
        {"arm": arm, "trial": number, "state": trial.state, "value": trial.value}
        | trial.params
        | {f"round_{rounds}": value for rounds, value in trial.values.items()}
        for arm, found in tuning.trials.items()
        for number, trial in enumerate(found)
    ]
    return pd.DataFrame(rows, columns=None if rows else ["arm", "trial", "state", "value"])


def best(tuning: Tuning) -> pd.DataFrame:
    """A row for each arm that has a complete trial: its best, and what it gained.

    Columns: arm, trial, value, default (the value of the arm as it is, empty where that failed), gain (by how much the
    value is better than that; below 0 where it is worse), the keys, command (what runs the best with seed 0).
    """
    rows = []
    for arm in tuning.trials:
        if (found := tuning.best(arm)) is None:
            continue
        number, trial = found
        default, value = tuning.defaults[arm], trial.latest
        gain = None if default is None else tuning.order(default) - tuning.order(value)
        row = {"arm": arm, "trial": number, "value": value, "default": default, "gain": gain}
        command = shlex.join(["fl-bench", *tuning.of["words"], *words(tuning, arm), "seed=0"])
        rows.append(row | trial.params | {"command": command})
    return pd.DataFrame(rows)


def words(tuning: Tuning, arm: str) -> list[str]:
    """The words of an arm and those of its best values, where it has any."""
    found = tuning.best(arm)
    return [*tuning.of["arms"][arm], *(f"{key}={value}" for key, value in (found[1].params if found else {}).items())]


def curve(tuning: Tuning) -> pd.DataFrame:
    """The best value so far by arm and trial, empty until one is complete: columns arm, trial, best."""
    table = trials(tuning)[["arm", "trial", "value"]].astype({"value": float})
    so_far = table.groupby("arm")["value"].transform("cummax" if tuning.better == "higher" else "cummin")
    return table.assign(best=so_far.groupby(table["arm"]).ffill()).drop(columns="value")


def importance(tuning: Tuning) -> pd.DataFrame:
    """How much of the metric's variance each key explains by itself: columns arm, key, importance, which add up to 1.

    By fANOVA (Hutter, Hoos, Leyton-Brown 2014) over the complete trials. Arms with fewer than two, or whose values are
    all the same, have no rows.
    """
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    rows = []
    for arm, found in tuning.trials.items():
        if len({trial.value for trial in found if trial.state == COMPLETE}) > 1:
            shares = optuna.importance.get_param_importances(tuning.study(arm), evaluator=evaluator)
            rows += [{"arm": arm, "key": key, "importance": share} for key, share in shares.items()]
    return pd.DataFrame(rows, columns=["arm", "key", "importance"])


def write(tuning: Tuning, folder: Path) -> None:
    """trials.csv, best.csv, and best.yaml: words of all runs, those of the best of each arm, and who has none."""
    for name, table in ((TRIALS, trials(tuning)), (BEST, best(tuning))):
        files.write(folder / name, table.to_csv(index=False).encode())
    arms = {arm: words(tuning, arm) for arm in tuning.trials if tuning.best(arm)}
    whole = {"words": tuning.of["words"], "arms": arms, "failed": [arm for arm in tuning.trials if arm not in arms]}
    files.write(folder / ARMS, yaml.safe_dump(whole, sort_keys=False).encode())


def shown(tuning: Tuning) -> str:
    """What a person sees: a table of the best, and how to run each again."""
    table = best(tuning)
    if table.empty:
        return ""
    text = table.drop(columns=["trial", "command"]).to_string(index=False, float_format="{:.4g}".format, na_rep="-")
    return "\n".join([text, *table["command"]])
