"""What a report has of a tuning: what it gained, as a table for the page and for papers, and what page.js draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import CategoricalDistribution

from fl_bench.studies import tuned
from fl_bench.studies.tables import NONE, Table, as_latex, as_markdown, numbers
from fl_bench.studies.trials import COMPLETE, Tuning

Names = Mapping[str, str]  # how a page calls the arms of a tuning, by their labels
SHARED = ("arm", "trial", "value", "default", "gain", "command")  # columns of `tuned.best` that are no keys


def names(tuning: Tuning, arms: Sequence[str], overrides: Sequence[Sequence[str]]) -> Names:
    """The arm that the final runs of each arm are, whose `arms` and `overrides` these are; else its own label."""
    found = {}
    for label, words in tuning.of["arms"].items():
        same = {arm for arm, said in zip(arms, overrides, strict=True) if {*words} <= {*said}}
        found[label] = same.pop() if len(same) == 1 else label
    return found if len({*found.values()}) == len(found) else {label: label for label in found}


def best(tuning: Tuning, names: Names) -> Table | None:
    """What tuning gained, and with which values, a row for each arm; None where no trial is complete."""
    table = tuned.best(tuning)
    if table.empty:
        return None
    table, number = table.astype({"default": float, "gain": float}), numbers(table["value"])
    keys = [key for key in map(str, table) if key not in SHARED]
    rows = []
    for row in table.to_dict("records"):
        values = [number(row["value"], ""), number(row["default"], ""), number(row["gain"], "+")]
        states = [trial.state for trial in tuning.trials[row["arm"]]]
        complete = f"{states.count(COMPLETE)} of {len(states)}"
        rows.append([names[row["arm"]], *values, *(_cell(row[key]) for key in keys), complete])
    return Table(["arm", "value", "default", "gain", *keys, "complete"], [("", rows)])


def importance(tuning: Tuning, names: Names) -> Table | None:
    """How much each key mattered, a row for each arm; None where no arm has searched two keys."""
    table = tuned.importance(tuning)
    if not table["arm"].duplicated().any():
        return None
    shares = {arm: dict(zip(of["key"], of["importance"], strict=True)) for arm, of in table.groupby("arm", sort=False)}
    keys = list(dict.fromkeys(table["key"]))
    rows = [[names[str(arm)], *(f"{of[key]:.2f}" if key in of else NONE for key in keys)] for arm, of in shares.items()]
    return Table(["arm", *keys], [("", rows)])


def captions(tuning: Tuning) -> list[str]:
    """What these numbers are, a sentence each."""
    metric, seeds = tuning.of["metric"], tuning.of["seeds"]
    way = f" ({tuning.better} is better)" if tuning.better else ""
    of = f"of seed {seeds[0]}" if len(seeds) == 1 else f"in the mean over seeds {', '.join(map(str, seeds))}"
    return [
        f"{metric}{way} after {tuning.of['rounds']} rounds, {of}: value, that of the best trial; default, that of the "
        "arm as it is, which is no trial; gain, by how much the best is better.",
        "A value is too good, as the best were chosen by it. What they are worth, runs with other seeds say.",
        "complete: trials that ran to the end, of all; the others were stopped early, have failed, or still run.",
    ]


def papers(tunings: Sequence[Tuning]) -> dict[str, str]:
    """What was gained, for papers: texts by the names of their files."""
    tables = [
        replace(
            table, name=f"tuning{number}", caption=f"{tuning.of['metric']}: what tuning gained", legend=captions(tuning)
        )
        for number, tuning in enumerate(tunings, start=1)
        if (table := best(tuning, {label: label for label in tuning.trials}))
    ]
    kinds = {"md": as_markdown, "tex": as_latex} if tables else {}
    return {f"tuning.{kind}": "\n".join(write([table]) for table in tables) for kind, write in kinds.items()}


IMPORTANCE = (
    "Importance: which share of the metric's variance over the complete trials a key explains by itself (fANOVA; "
    "Hutter, Hoos and Leyton-Brown 2014). With few trials it is a guess."
)


def data(tuning: Tuning, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What page.js draws of a tuning, with these numbers for its arms: the best so far by trial, and values by key."""
    so_far = tuned.curve(tuning)
    return {
        "metric": tuning.of["metric"],
        "curves": [
            {
                "arm": numbers[str(arm)],
                "best": [None if math.isnan(value) else value for value in table["best"]],
                "default": tuning.defaults.get(str(arm)),
            }
            for arm, table in so_far.groupby("arm", sort=False)
        ],
        "keys": [
            _key(tuning, key, drawn, numbers)
            for key, drawn in {key: drawn for space in tuning.space.values() for key, drawn in space.items()}.items()
        ],
    }


def _key(tuning: Tuning, key: str, drawn: Any, numbers: Mapping[str, int]) -> dict[str, Any]:
    """The trials as points of (value of the key, value of the metric, null where it was not run to the end)."""
    choices = list(map(str, drawn.choices)) if isinstance(drawn, CategoricalDistribution) else []
    points = [
        [numbers[arm], choices.index(str(trial.params[key])) if choices else trial.params[key], trial.value]
        for arm, trials in tuning.trials.items()
        for trial in trials
        if key in trial.params
    ]
    ends = {} if choices else {"range": [drawn.low, drawn.high], "log": drawn.log}
    return {"name": key, "choices": choices, "points": points, **ends}


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return NONE if math.isnan(value) else f"{value:g}"
    return str(value)
