"""Figures of a study that go into a paper as they are: a column wide, fonts embedded, no title, no date."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

from fl_bench.results.figures import place
from fl_bench.studies.study import Study

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")  # Okabe and Ito; as in page.js
DASHES = ("-", "--", "-.", ":")
MARKS = "os^Dv"
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "pdf.fonttype": 42, "axes.linewidth": 0.6, "lines.linewidth": 1.2,
}  # fmt: skip
COLUMN = (3.3, 2.2)  # inches
DPI = 300
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def draw(study: Study, metric: str, values: pd.Series, folder: Path) -> list[Path]:
    """Draw for each setting a metric over rounds and bytes, and the runs' values against their bytes, as PDF and PNG.

    Returns the files.
    """
    arms = list(dict.fromkeys(study.runs["arm"]))
    runs = study.runs.assign(value=values)
    files: list[Path] = []
    for setting, table in runs.groupby("setting", sort=False):
        name = f".{re.sub(r'[^A-Za-z0-9=.-]+', '_', str(setting))}" if setting else ""
        rounds = study.rounds.merge(table["arm"], left_on="run", right_index=True)
        for axis, label in (("round", "round"), ("bytes", "traffic")):
            with matplotlib.rc_context(STYLE):
                figure, axes = _figure()
                curves(axes, rounds, metric, axis, label, arms)
                files += _save(figure, axes, folder, f"curves_{label}{name}")
        with matplotlib.rc_context(STYLE):
            figure, axes = _figure()
            _pareto(axes, table, metric, study.better.get(metric), arms)
            files += _save(figure, axes, folder, f"pareto{name}")
    return files


def means(rounds: pd.DataFrame, metric: str, axis: str) -> pd.DataFrame:
    """By round the mean over runs of `axis` (x) and of `metric` (mean), and half of the latter's 95 % Student interval.

    Of those rounds that all runs have measured. The half is NaN for one run.
    """
    measured = rounds.dropna(subset=[metric]).groupby("round")
    table = measured.agg(x=(axis, "mean"), mean=(metric, "mean"), error=(metric, "sem"), runs=("run", "nunique"))
    table = table[table["runs"] == rounds.dropna(subset=[metric])["run"].nunique()]
    return table.assign(half=stats.t.ppf(0.975, table["runs"] - 1) * table["error"])


def front(points: Sequence[tuple[float, float]], better: str) -> list[int]:
    """Of (cost, value) pairs, the indices of those that no other beats in both, the cheapest first.

    Examples:
        >>> front([(1.0, 0.5), (2.0, 0.4), (3.0, 0.9)], "higher")
        [0, 2]
        >>> front([(1.0, 0.5), (2.0, 0.4), (2.0, 0.3)], "lower")
        [0, 2]
    """
    sign = 1.0 if better == "higher" else -1.0
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if not found or sign * points[i][1] > sign * points[found[-1]][1]:
            found.append(i)
    return found


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=COLUMN, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, linewidth=0.4)
    return figure, axes


def curves(axes: Axes, rounds: pd.DataFrame, metric: str, axis: str, label: str, arms: Sequence[str]) -> None:
    """Draw for each arm the mean of a metric over the column `axis` of `rounds`, and its interval: see `means`."""
    unit, size = _unit(axis, rounds[axis].max())
    for number, arm in enumerate(arms):
        of_arm = rounds[rounds["arm"] == arm]
        if of_arm[metric].notna().any():
            table = means(of_arm, metric, axis)
            colour = COLOURS[number % len(COLOURS)]
            x, mean = table["x"] / size, table["mean"]
            axes.plot(x, mean, color=colour, linestyle=DASHES[number % len(DASHES)], label=arm)
            axes.fill_between(x, mean - table["half"], mean + table["half"], color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=f"{label}{unit}", ylabel=metric)


def _pareto(axes: Axes, runs: pd.DataFrame, metric: str, better: str | None, arms: Sequence[str]) -> None:
    unit, size = _unit("bytes", runs["bytes"].max())
    points = runs.dropna(subset=["value"]).groupby("arm")[["bytes", "value"]].mean()
    for arm, (cost, value) in zip(points.index, points.to_numpy(), strict=True):
        number = arms.index(str(arm))
        mark, colour = MARKS[number % len(MARKS)], COLOURS[number % len(COLOURS)]
        each = runs[runs["arm"] == arm]
        axes.scatter(each["bytes"] / size, each["value"], marker=mark, color=colour, s=8, alpha=0.5, linewidth=0)
        axes.scatter(cost / size, value, marker=mark, color=colour, s=36, label=arm, edgecolor="white", linewidth=0.5)
    if better:
        best = points.to_numpy()[front(list(map(tuple, points.to_numpy())), better)]
        axes.plot(best[:, 0] / size, best[:, 1], color="grey", linestyle="--", linewidth=0.8, zorder=0)
    axes.set_xlim(left=0)
    axes.set(xlabel=f"traffic of the run{unit}", ylabel=metric)


def _unit(axis: str, most: float) -> tuple[str, float]:
    """The unit in which an axis is labelled, in brackets, and its size."""
    if axis != "bytes":
        return "", 1.0
    return next(((f" ({unit})", size) for unit, size in UNITS if most >= size), (" (B)", 1.0))


def _save(figure: Figure, axes: Axes, folder: Path, name: str) -> Iterator[Path]:
    """Write the figure as PDF and PNG, with no date in it."""
    axes.legend(frameon=False, handlelength=2.2, borderaxespad=0.2)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a name is a dollar
    place(figure, DPI)
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        file = folder / f"{name}.{kind}"
        figure.savefig(file, dpi=DPI, metadata=metadata)
        yield file
