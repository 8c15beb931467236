"""The question of a study: which arm is better than the baseline, under which conditions, and at what cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fl_bench.build import nearest
from fl_bench.errors import ConfigError
from fl_bench.studies import statistics
from fl_bench.studies.study import Study
from fl_bench.studies.targets import Baselines, costs_of, named, targets_of
from fl_bench.studies.values import metric_named, values

ALPHA = 0.05
PAIR = ["seed", "partition_digest"]  # what two runs of a pair have in common, besides their setting
VERDICTS = {"higher": ("worse", "better"), "lower": ("better", "worse"), None: ("lower", "higher")}  # below 0, above


@dataclass(frozen=True)
class Comparison:
    """An answer, in unrounded numbers; NaN where there is none.

    baselines: by setting the arm that the others are compared with; one that was named may be none of a setting's.
    differences: a row for each setting and arm, the baseline first: setting, arm, also (keys that the arm's label
        leaves out), runs (that have a number), mean and half (of the 95 % interval of the mean); and against the
        baseline: pairs, difference, difference_half, p (paired t), p_holm, p_flip, p_better, effect (d_z), needed
        (pairs, to show such an effect), verdict ("better", "worse", "not shown").
    costs: a row for each setting, arm and target: see `costs_of`.
    across: a row for each arm over the settings that all arms have, where there are two or more: arm, settings, middle,
        low, high (the interquartile mean and its interval), difference, p (signed ranks), p_holm.
    captions: by table (differences, costs, across) what its numbers are, a sentence each.
    notes: what is left out, and what the numbers cannot say.
    uncompared: why no arm is compared with another; "" where one is.
    """

    metric: str
    baselines: Baselines
    differences: pd.DataFrame
    costs: pd.DataFrame
    across: pd.DataFrame
    captions: Mapping[str, Sequence[str]]
    notes: Sequence[str]
    uncompared: str


def compare(
    study: Study, metric: str | None = None, baseline: str | None = None, at: str = "final", target: float | None = None
) -> Comparison:
    """Each arm against the baseline in each setting, by the value of each run that `at` names (values.AT).

    Without a metric it is the target_metric of the runs; without a baseline the first arm with strategy=fedavg, else
    the first, of each setting; without a target those of the config, else the mean at which the baseline ends.
    Raises ConfigError where one of them is not there, or nothing can be compared.
    """
    found = summary(study, metric, baseline, at, target)
    if found.uncompared:
        raise ConfigError(found.uncompared)
    return found


def summary(
    study: Study, metric: str | None = None, baseline: str | None = None, at: str = "final", target: float | None = None
) -> Comparison:
    """What `compare` says, or what arms are by themselves where nothing can be compared, such as one arm only."""
    metric = metric_named(study, metric)
    baselines = _baselines(study, baseline)
    better = study.better.get(metric)
    value, clause = values(study, metric, at)
    runs = study.runs.assign(value=value, base=study.runs["arm"] == study.runs["setting"].map(baselines))
    placed = runs.assign(place=pd.factorize(runs["setting"])[0])
    first = placed.sort_values(["place", "base"], ascending=[True, False])  # stable: the others stay in their order
    counted = first[first["value"].notna()]
    differences = pd.DataFrame(_rows(counted, better))
    differences["p_holm"] = statistics.holm(differences["p"])
    differences["verdict"] = [_verdict(row, better) for row in differences.itertuples()]
    why = "" if differences["pairs"].any() else _nothing_to_compare(study, counted, baselines, metric)
    across, said_across = (pd.DataFrame(), []) if why else _across(counted, baselines)
    targets, said_targets = targets_of(study, counted, metric, baselines, target)
    costs = costs_of(study, counted, metric, better, targets)
    captions = {
        "differences": _captions(metric, better, clause, baselines, differences),
        "costs": [said_targets] if costs["target"].notna().any() else [],
        "across": said_across,
    }
    notes = [f"nothing is compared: {why}"] if why else []
    notes += _notes(study, runs, baselines, differences, metric)
    return Comparison(metric, baselines, differences, costs, across, captions, notes, why)


def _baselines(study: Study, name: str | None) -> Baselines:
    """By setting the arm of this name, or that whose label has the words of it; see `compare` for none."""
    arms = study.runs["arm"].unique().tolist()
    if name is None:
        wanted = [*study.runs.loc[study.runs["strategy"] == "fedavg", "arm"].unique(), *arms]
    elif not (wanted := [arm for arm in arms if arm == name or {*name.split()} <= {*arm.split()}]):
        raise ConfigError(f"--baseline {name}: is no arm of these runs; {nearest(name, arms)}")
    found: dict[str, str] = {}
    for setting, there in study.runs.groupby("setting", sort=False)["arm"].unique().items():
        here = [arm for arm in wanted if arm in there]
        if name not in (None, *here) and len(here) > 1:
            raise ConfigError(f"--baseline {name}: must be one arm; it may be {' or '.join(here)}")
        found |= {str(setting): str(name if name in here else here[0])} if here else {}
    return found


def _rows(counted: pd.DataFrame, better: str | None) -> Iterator[dict[str, Any]]:
    """The rows of `Comparison.differences`, without what depends on all of them."""
    for setting, here in counted.groupby("setting", sort=False):
        base = here[here["base"]].set_index(PAIR)["value"]
        for arm, ours in here.groupby("arm", sort=False):
            mean, half = statistics.interval(ours["value"])
            row = {"setting": setting, "arm": arm, "also": ours["also"].iloc[0], "runs": len(ours)}
            pairs = pd.concat([ours.set_index(PAIR)["value"], base], axis=1, join="inner").to_numpy()
            yield row | {"mean": mean, "half": half} | _paired(pairs[:0] if ours["base"].any() else pairs, better)


def _paired(pairs: np.ndarray, better: str | None) -> dict[str, Any]:
    """What pairs [n, 2] of an arm and the baseline say."""
    if not len(pairs):
        names = ("difference", "difference_half", "p", "p_flip", "p_better", "effect", "needed")
        return {"pairs": 0} | dict.fromkeys(names, np.nan)
    difference = pairs[:, 0] - pairs[:, 1]
    difference[np.abs(difference) <= statistics.EQUAL * np.abs(pairs).max()] = 0  # but for rounding
    mean, half = statistics.interval(difference)
    effect = statistics.effect_size(difference)
    return {
        "pairs": len(pairs),
        "difference": mean,
        "difference_half": half,
        "p": float(statistics.t_test(difference)),
        "p_flip": statistics.sign_flip(difference),
        "p_better": statistics.share_better(-difference if better == "lower" else difference),
        "effect": effect,
        "needed": statistics.seeds_needed(effect) or np.nan,
    }


def _verdict(row: Any, better: str | None) -> str:
    if not row.pairs:
        return ""
    return VERDICTS[better][row.difference > 0] if row.p_holm < ALPHA else "not shown"


def _across(counted: pd.DataFrame, baselines: Baselines) -> tuple[pd.DataFrame, list[str]]:
    """The table over settings, and what it is."""
    means = counted.pivot_table(index="setting", columns="arm", values="value", sort=False).dropna()
    shared = {baselines.get(str(setting)) for setting in means.index}
    if len(means) < 2 or len(shared) > 1 or not shared <= {*means.columns}:
        return pd.DataFrame(), []
    (baseline,) = shared
    rows = []
    for arm in means.columns:
        ours = counted[(counted["arm"] == arm) & counted["setting"].isin(means.index)]
        middle, low, high = statistics.interquartile_mean([list(of) for _, of in ours.groupby("setting")["value"]])
        row = {"arm": arm, "settings": len(means), "middle": middle, "low": low, "high": high}
        difference = (means[arm] - means[baseline]).to_numpy()
        known = arm != baseline
        rows.append(row | {
            "difference": difference.mean() if known else np.nan,
            "p": statistics.signed_rank(difference) if known else np.nan,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table["p_holm"] = statistics.holm(table["p"])
    said = (
        f"Over {len(means)} settings: the interquartile mean of all runs [its 95 % interval by a bootstrap within "
        f"settings]. mean difference: from {baseline}, of the settings' plain means. p: Wilcoxon's signed ranks of "
        f"these {len(means)} differences, which need {statistics.seeds_to_show(ALPHA)} to come below {ALPHA}. Holm: "
        f"for the {len(rows) - 1} comparisons here."
    )
    if len(rows) > 2:
        said += f" Friedman's test, whether any two of {len(rows)} arms differ: p = {statistics.friedman(means):.3g}."
    return table, [said]


def _captions(metric: str, better: str | None, clause: str, baselines: Baselines, found: pd.DataFrame) -> list[str]:
    """What the columns are that differences have a number in."""
    number, least = int(found["p"].count()), statistics.seeds_to_show(ALPHA)
    way = f" ({better} is better)" if better else ""
    half = " ± its 95 % Student interval" if found["half"].count() else ""
    base = named(baselines, "the first arm of their setting")
    alone = "; each interval is of one comparison alone" if found["difference_half"].count() else ""
    said = {
        "mean": f"{metric}{way} {clause}: the mean over runs{half}.",
        "difference": f"Differences are from {base}, in pairs of the same seed and partition{alone}.",
        "p": f"p: paired t test. Holm: the same, corrected for the number of comparisons here that have a p, {number}; "
        f"the verdict goes by it, at {ALPHA}.",
        "p_flip": f"flips: exact sign flips, which need {least} pairs to come below {ALPHA}.",
        "p_better": f"won: the share of pairs that are {'better' if better else 'higher'}, ties half.",
        "effect": "d_z: the mean difference in standard deviations of the differences.",
        "needed": "need: pairs to show such a d_z with power 0.8.",
    }
    return [sentence for column, sentence in said.items() if found[column].count()]


def _notes(study: Study, runs: pd.DataFrame, baselines: Baselines, found: pd.DataFrame, metric: str) -> Iterator[str]:
    """What is left out or not known, a line each."""
    if metric not in study.better:
        yield f"{metric}: the runs do not say which way it gets better, so no target is looked for"
    for run in runs[runs["value"].isna()].itertuples():
        yield f"{run.folder}: left out, as {metric} is no number at its last round"
    row: Any
    for row in found.itertuples():
        if (baseline := baselines.get(row.setting)) == row.arm:
            continue
        here = runs[(runs["setting"] == row.setting) & runs["value"].notna()]
        where = f"{row.arm}{' with ' if row.setting else ''}{row.setting}"
        if baseline is None:
            yield f"{where}: there is no baseline in this setting"
            continue
        ours, base = (here[here["arm"] == arm].set_index(PAIR) for arm in (row.arm, baseline))
        if alone := sorted({seed for seed, _ in ours.index.symmetric_difference(base.index)}):
            yield f"{where}: no pair with {baseline} of seed {', '.join(map(str, alone))}"
        if row.pairs == 1:
            yield f"{where}: one pair only, so there is neither an interval nor a p"
        elif row.pairs and np.isnan(row.p):
            yield f"{where}: all differences are {row.difference:.4g}, so nothing is known of their spread: no p"
        both = ours.add_suffix("_a").join(base, how="inner")
        if (both["data_digest_a"] != both["data_digest"]).any():
            yield f"{where}: has other data than {baseline}"
        if (both["rounds_a"] != both["rounds"]).any():
            yield f"{where}: some runs of a pair have different numbers of rounds"
    for skipped in study.skipped:
        yield f"{skipped.folder}: left out: {skipped.why}"


def _nothing_to_compare(study: Study, counted: pd.DataFrame, baselines: Baselines, metric: str) -> str:
    base = " and ".join(dict.fromkeys(baselines.values()))
    if study.runs["arm"].nunique() == 1:
        number = study.runs["setting"].nunique()
        where = f"{number} settings" if number > 1 else "one setting"
        return f"there is only one arm, {base}, in {where}; --by KEY names other keys that make arms"
    arms = counted["arm"].unique().tolist()
    if len(arms) == 1 or not counted["base"].any():
        return (
            f"--metric {metric}: only {', '.join(arms)} has a number at the last round; others may have other metrics"
        )
    shared = counted.groupby("setting")["arm"].nunique().max() > 1
    why = (
        f"has a pair with the baseline {base}, of the same seed and partition" if shared else "has a setting in common"
    )
    settings = ", ".join(setting or "none named" for setting in counted["setting"].unique()[:4])
    return f"no run of another arm {why} (settings: {settings}); --baseline names another, --by KEY what makes an arm"
