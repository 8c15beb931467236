"""Figures of a study that go into a paper as they are: a column wide, fonts embedded, no title, no date."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

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
LONGEST = 100  # letters of a setting in a file's name
HANDLE, LETTER = 7, 0.62  # letters of a legend's line that are no name; how wide a letter is, in its height
BANDS = "Lines: means of runs. Bands: lowest to highest run."
PARETO = "Large marks: means of runs. Small marks: runs. Dashed: arms that no other beats in both."
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def draw(study: Study, metric: str, values: pd.Series, folder: Path) -> list[Path]:
    """Draw for each setting a metric over rounds and bytes, and the runs' values against their bytes, as PDF and PNG.

    Returns the files.
    """
    arms = list(dict.fromkeys(study.runs["arm"]))
    runs = study.runs.assign(value=values)
    files: list[Path] = []
    tables = list(runs.groupby("setting", sort=False))
    for suffix, (_, table) in zip(_suffixes([str(setting) for setting, _ in tables]), tables, strict=True):
        rounds = study.rounds.merge(table["arm"], left_on="run", right_index=True)
        for axis, label in (("round", "round"), ("bytes", "traffic")):
            with matplotlib.rc_context(STYLE):
                figure, axes = _figure()
                curves(axes, rounds, metric, axis, label, arms)
                files += _save(figure, arms, BANDS, folder, f"curves_{label}{suffix}")
        with matplotlib.rc_context(STYLE):
            figure, axes = _figure()
            _pareto(axes, table, metric, study.better.get(metric), arms)
            files += _save(figure, arms, PARETO, folder, f"pareto{suffix}")
    return files


def _suffixes(settings: Sequence[str]) -> list[str]:
    r"""What the names of figures of each setting end with, in letters that \includegraphics takes."""
    found: dict[str, None] = {}
    for setting in settings:
        name = re.sub(r"[^A-Za-z0-9]+", "_", f"_{setting}").rstrip("_")[:LONGEST]
        tries = chain([name], (f"{name}_{number}" for number in count(2)))
        found[next(text for text in tries if text not in found)] = None
    return list(found)


def means(rounds: pd.DataFrame, metric: str, axis: str) -> pd.DataFrame:
    """By round the mean over runs of `axis` (x), and of `metric` the mean, and from where to where the runs reach.

    Columns x, mean, low and high, of those rounds that all runs have measured.
    """
    measured = rounds.dropna(subset=[metric])
    table = measured.groupby("round").agg(
        x=(axis, "mean"), mean=(metric, "mean"), low=(metric, "min"), high=(metric, "max"), runs=("run", "nunique")
    )
    return table[table["runs"] == measured["run"].nunique()]


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
    """Draw for each arm the mean of a metric over the column `axis` of `rounds`, and the range of its runs."""
    unit, size = _unit(axis, rounds[axis].max())
    for number, arm in enumerate(arms):
        of_arm = rounds[rounds["arm"] == arm]
        if of_arm[metric].notna().any():
            table = means(of_arm, metric, axis)
            colour = COLOURS[number % len(COLOURS)]
            x = table["x"] / size
            axes.plot(x, table["mean"], color=colour, linestyle=DASHES[number % len(DASHES)], label=arm)
            axes.fill_between(x, table["low"], table["high"], color=colour, alpha=0.15, linewidth=0)
    if axis == "round":
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set(xlabel=f"{label}{unit}", ylabel=metric)


def _pareto(axes: Axes, runs: pd.DataFrame, metric: str, better: str | None, arms: Sequence[str]) -> None:
    unit, size = _unit("bytes", runs["bytes"].max())
    known = runs.dropna(subset=["value"])
    points = []
    for number, arm in enumerate(arms):
        each = known[known["arm"] == arm]
        if each.empty:
            continue
        mark, colour = MARKS[number % len(MARKS)], COLOURS[number % len(COLOURS)]
        axes.scatter(each["bytes"] / size, each["value"], marker=mark, color=colour, s=8, alpha=0.5, linewidth=0)
        points.append((float(each["bytes"].mean()), float(each["value"].mean())))
        cost, value = points[-1]
        axes.scatter(  # hollow: of two at one place both are seen
            cost / size, value, marker=mark, s=36, label=arm, facecolor="none", edgecolor=colour, linewidth=1
        )
    if better:
        x, y = zip(*(points[i] for i in front(points, better)), strict=True)
        axes.plot([cost / size for cost in x], y, color="grey", linestyle="--", linewidth=0.8, zorder=0)
    axes.set_xlim(left=0)
    axes.set(xlabel=f"traffic of the run{unit}", ylabel=metric)


def _unit(axis: str, most: float) -> tuple[str, float]:
    """The unit in which an axis is labelled, in brackets, and its size."""
    if axis != "bytes":
        return "", 1.0
    return next(((f" ({unit})", size) for unit, size in UNITS if most >= size), (" (B)", 1.0))


def _save(figure: Figure, arms: Sequence[str], about: str, folder: Path, name: str) -> Iterator[Path]:
    """Write the figure as PDF and PNG, with no date in it."""
    legend(figure, arms, about)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a name is a dollar
    place(figure, DPI)
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        file = folder / f"{name}.{kind}"
        figure.savefig(file, dpi=DPI, metadata=metadata)
        yield file


def legend(figure: Figure, arms: Sequence[str], about: str) -> None:
    """Put what is drawn, `about`, and the arms that are, in this order, below the figure, which grows by as much."""
    pairs = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in pairs}
    drawn = [arm for arm in arms if arm in handles]
    size = FontProperties(size=matplotlib.rcParams["legend.fontsize"]).get_size_in_points()
    letters = int(figure.get_figwidth() * 72 / size / LETTER)  # in a line as wide as the figure
    columns = max(1, min(3, letters // (max(map(len, drawn)) + HANDLE)))
    names, title = [fill(arm, letters - HANDLE) for arm in drawn], fill(about, letters)
    lines = [text.count("\n") + 1 for text in (*names[::columns], title)]  # with several columns no name is folded
    figure.set_figheight(figure.get_figheight() + sum(lines) * 1.4 * size / 72)
    order = [i for column in range(columns) for i in range(column, len(drawn), columns)]  # it fills columns first
    figure.legend(
        [handles[drawn[i]] for i in order], [names[i] for i in order], title=title, title_fontsize=size, fontsize=size,
        loc="outside lower left", ncols=columns, alignment="left", frameon=False, handlelength=2.2, borderaxespad=0.2,
        columnspacing=1,
    )  # fmt: skip
