"""One number for each run: what of its curve is compared."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from fl_bench.build import nearest
from fl_bench.errors import ConfigError
from fl_bench.studies.study import Study

Curve = pd.Series  # the values of a metric by round, of the rounds that evaluated it
NO_METRICS = ["run", "round"]


def _last(curve: Curve, number: int, best: float) -> float:
    if number > len(curve):
        raise ValueError(f"has {len(curve)} evaluations")
    return float(curve.iloc[-number:].mean())


def _at_best(curve: Curve, number: int, best: float) -> float:
    if np.isnan(best):
        raise ValueError("has no validation, see evaluate.validation")
    return float(curve.get(best, np.nan))


def _area(curve: Curve, number: int, best: float) -> float:
    if len(curve) < 2:
        raise ValueError("has one evaluation only")
    return float(np.trapezoid(curve, curve.index) / (curve.index[-1] - curve.index[0]))


# By --at: how the number is made of a curve, K of last:K and the round that is best by validation; and what is said.
AT: dict[str, tuple[Callable[[Curve, int, float], float], str]] = {
    "final": (lambda curve, number, best: float(curve.iloc[-1]), "at the last round"),
    "last": (_last, "as the mean of the last {} evaluations"),
    "best": (_at_best, "at the round that is best by validation"),
    "area": (_area, "as the mean over the rounds (the area under the curve)"),
}


def values(study: Study, metric: str, at: str) -> tuple[pd.Series, str]:
    """The value of each run, NaN where its last round has no finite one, and a clause that says what it is.

    Raises ConfigError for an unknown `at`, and where a run has no such value: never is it the best round by the test.
    """
    name, colon, number = at.partition(":")
    if name not in AT or bool(colon) != (name == "last") or (colon and not (number.isdigit() and int(number))):
        raise ConfigError(f"--at {at}: must be final, last:K (the mean of the last K evaluations), best or area")
    function, said = AT[name]
    found = []
    for folder, best, rounds in _by_run(study):
        curve = rounds[metric]
        try:
            known = np.isfinite(curve.iloc[-1])
            value = function(curve.dropna(), int(number or 1), best) if known else np.nan
        except ValueError as error:
            raise ConfigError(f"--at {at}: {folder} {error}") from None
        found.append(value if np.isfinite(value) else np.nan)
    if np.isnan(found).all():
        raise ConfigError(f"--metric {metric}: no run has a number at its last round")
    return pd.Series(found), said.format(number)


def _by_run(study: Study) -> Iterator[tuple[str, float, pd.DataFrame]]:
    tables = dict(iter(study.rounds.groupby("run")))
    for run, folder, best in zip(study.runs.index, study.runs["folder"], study.runs["best"], strict=True):
        yield folder, best, tables[run].set_index("round")


def metric_named(study: Study, name: str | None) -> str:
    """The metric of this name, or the target_metric of the runs; ConfigError where there is none, or several."""
    targets = study.runs["target_metric"].dropna().unique().tolist()
    if name is None and len(targets) != 1:
        raise ConfigError(f"--metric: name one, as the runs have {' and '.join(targets) or 'none'} as target_metric")
    metric = name or targets[0]
    columns = study.rounds.dropna(axis=1, how="all").columns.difference(NO_METRICS)
    if metric not in columns:
        raise ConfigError(f"--metric {metric}: no run has measured it; {nearest(metric, columns)}")
    return str(metric)
