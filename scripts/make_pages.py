"""Make pages of docs/ from their templates in scripts/pages, with figures and reports.

    make results        (or .venv/bin/python scripts/make_pages.py [FOLDER] [--as-it-is] [--page PAGE])

A template names the studies of conf/study that it shows. They are run into the folder, by default outputs/pages, and go
on there when they were interrupted; what is there already is not run again. --as-it-is: nothing is run.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import pandas as pd
from rich.filesize import decimal
from sweeps import HERE, markdown

from fl_bench.api.plot import plot
from fl_bench.storage.run_json import read_run
from fl_bench.studies import plots, report, statistics, tables
from fl_bench.studies.arms import arms_of, keys_of, with_study
from fl_bench.studies.compare import PAIR, Comparison
from fl_bench.studies.study import load
from fl_bench.studies.targets import first_at
from fl_bench.studies.values import values

DOCS, TEMPLATES = HERE / "docs", HERE / "scripts" / "pages"
LARGE = {**plots.STYLE, "font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8}
NARROW = 40  # letters of a legend's entry, of which two stand beside each other
ROUNDS = "rounds"  # what a claim is of, where it is of how many rounds are needed


class Shown:
    """A study of conf/study with the texts, figures and the report that a page has of it.

    `metric` is the one of its table and curves, `baseline` the arm that the others are compared with.
    """

    def __init__(self, name: str, metric: str, baseline: str, folder: Path, as_it_is: bool) -> None:
        self.name, self.metric, self.baseline = name, metric, baseline
        self.command = f"fl-bench -m study={name}"
        run = [str(Path(sys.executable).with_name("fl-bench")), "-m", f"study={name}", "resume=true"]
        if not as_it_is:
            done = subprocess.run([*run, f"hydra.sweep.dir={folder / name}"])
            if done.returncode > 1:  # 1: some cells have failed, as under an attack, and the tables say how many
                raise SystemExit(done.returncode)
        self._folder = folder
        self._by = keys_of(arms_of(with_study([f"study={name}"], None)))
        self.study = load([folder / name], self._by)

    @cached_property
    def answer(self) -> Comparison:
        """What is compared, with its report in docs/reports."""
        where, question = [self._folder / self.name], {"metric": self.metric, "baseline": self.baseline}
        answer, (page, *_) = report.make(self.study, where, self._by, None, **question)
        assert answer is not None, "it has runs"
        text = page.read_text().replace(str(self._folder.absolute()), "outputs/pages")  # not where this machine has it
        (DOCS / "reports").mkdir(exist_ok=True)
        (DOCS / "reports" / f"{self.name}.html").write_text(text)
        return answer

    @property
    def report(self) -> str:
        assert self.answer
        return f"reports/{self.name}.html"

    def compared(self) -> str:
        """The tables of `fl-bench compare`, without their captions, which are the same for all studies."""
        return tables.markdown(replace(self.answer, captions=dict.fromkeys(self.answer.captions, ()))).strip()

    def means(self, metrics: Sequence[str], sums: Sequence[str] = ()) -> str:
        """A row for each arm: the mean of metrics at the last round ± half of its interval, and of sums over rounds."""
        runs, rounds = self.study.runs, self.study.rounds
        ends = runs[["arm", "also"]].assign(**{name: values(self.study, name, "final")[0] for name in metrics})
        ends = ends.join(rounds.groupby("run")[list(sums)].sum())
        ends = ends.sort_values("arm", key=lambda arm: arm != self.baseline, kind="stable")
        base = ends[ends["arm"] == self.baseline]
        rows = []
        for (arm, also), group in ends.groupby(["arm", "also"], sort=False):
            numbers = [_interval(group[name]) for name in metrics]
            numbers += [_sum(name, group[name].mean(), base[name].mean()) for name in sums]
            rows.append([f"{arm} {also}".strip() if sums else arm, *numbers])
        header = ["", *(f"`{name}`" for name in metrics), *(f"`{name}`, all rounds" for name in sums)]
        return "\n".join(markdown(header, rows))

    def matrix(
        self, metric: str, columns: str, where: Mapping[str, Any], lost: float = math.inf, most: float = math.inf
    ) -> str:
        """A row for each arm and a column for each value of a key: the mean of a metric at the last round ± half of its
        interval, of the runs that have these values of other keys. Where some have failed, how many have ended.

        Bold where it is above `most`, or has `lost` so much of what the baseline has in the first column.
        """
        runs = self.study.runs.assign(value=values(self.study, metric, "final")[0])
        runs = runs[[all(run[key] == value for key, value in where.items()) for _, run in runs.iterrows()]]
        named = sorted(runs[columns].unique(), key=lambda name: (name != "none", name))
        seeds = runs["seed"].nunique()
        least = runs.loc[(runs["arm"] == self.baseline) & (runs[columns] == named[0]), "value"].mean() - lost

        def cell(found: pd.Series) -> str:
            if found.empty:
                return f"(0 of {seeds})"
            bold = "**" if found.mean() > most or found.mean() < least else ""
            return f"{bold}{_interval(found)}{bold}{f' ({len(found)} of {seeds})' if len(found) < seeds else ''}"

        rows = [
            [str(arm), *(cell(group.loc[group[columns] == name, "value"].dropna()) for name in named)]
            for arm, group in runs.groupby("arm", sort=False)
        ]
        rows.sort(key=lambda row: row[0] != self.baseline)
        return "\n".join(markdown(["", *(f"`{name}`" for name in named)], rows))

    def audited(self, canaries: int, numbers: Sequence[str], metrics: Sequence[str]) -> str:
        """A row for each arm: the mean of metrics at the last round ± half of its interval, and of numbers that
        `fl-bench audit` finds: of members, and, where the run has an epsilon, of so many canaries: rows, or as many
        clients, if there are so many."""
        command, found = str(Path(sys.executable).with_name("fl-bench")), []
        for folder in map(Path, self.study.runs["folder"]):
            if not (table := folder / "audit" / "audit.csv").exists():
                run = read_run(folder)
                rows = run["config"]["privacy"]["_target_"].endswith("DPSGD")
                most = canaries if rows else min(canaries, run["config"]["num_clients"])
                how = ["membership,canaries", "--canaries", str(most)] if "epsilon" in run["final"] else ["membership"]
                subprocess.run([command, "audit", str(folder), "--what", *how], check=True)
            found.append(pd.read_csv(table).set_index("number")["value"].reindex(list(numbers)))
        ends = pd.DataFrame(found).set_axis(self.study.runs.index)
        ends = ends.assign(**{name: values(self.study, name, "final")[0] for name in metrics})
        rows = [
            [f"{setting} {arm}", *(_interval(group[name]) for name in (*metrics, *numbers))]
            for (setting, arm), group in ends.groupby([self.study.runs["setting"], self.study.runs["arm"]], sort=False)
        ]
        rows.sort(key=lambda row: not row[0].endswith(self.baseline))
        return "\n".join(markdown(["", *(f"`{name}`" for name in (*metrics, *numbers))], rows))

    def claims(self, claims: Sequence[tuple[str, str, str, str]]) -> str:
        """A row for each (claim, arm, other arm, metric): whether the interval of paired differences excludes 0.

        With "rounds" as the metric: how many rounds fewer the arm needs to come to where the other ends. One that does
        not come there counts as if it did in the round after its last.
        """
        rows = []
        for claim, arm, other, metric in claims:
            better, worse = ("yes", "**no**, worse")
            if metric == ROUNDS:
                differences, compared = self._rounds_saved(arm, other), f"{arm}: rounds fewer to where {other} ends"
            else:
                differences, compared = self._differences(arm, other, metric), f"{arm} - {other}, `{metric}`"
                if self.study.better.get(metric) == "lower":
                    better, worse = worse, better
            mean, half = statistics.interval(differences)
            verdict = "not shown" if abs(mean) <= half else better if mean > 0 else worse
            digits = 1 if metric == ROUNDS else 3
            rows.append([claim, compared, f"{mean:+.{digits}f} ± {half:.{digits}f}", str(len(differences)), verdict])
        return "\n".join(markdown(["claim", "compared", "difference", "pairs", "holds"], rows))

    def figure(self, axis: str = "round", log: bool = False) -> str:
        """The curves of the metric, a panel for each setting, as Markdown that shows them; `log` is of the x axis."""
        with matplotlib.rc_context(LARGE):
            figure = plot(self.study, self.metric, axis)
            for axes in figure.axes:
                if log:
                    axes.set_xscale("log")
            for legend in list(figure.legends):  # here the page says what is drawn
                legend.remove()
            handles, labels = figure.axes[0].get_legend_handles_labels()
            columns = 1 if max(map(len, labels)) > NARROW else 2
            figure.set_size_inches(4.2 * len(figure.axes) + 3, 4 + 0.2 * len(labels) / columns)
            figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False)
            figure.savefig(DOCS / "images" / f"study-{self.name}.png", dpi=110, metadata={"Software": None})
        return f"![{self.metric} over {axis}](images/study-{self.name}.png)"

    def _pairs(self, arm: str, other: str, metric: str) -> pd.DataFrame:
        """The runs of two arms side by side: run, value, and the same of the other with _other."""
        runs = self.study.runs.assign(value=values(self.study, metric, "final")[0], run=self.study.runs.index)
        ours, theirs = (runs.loc[runs["arm"] == name, ["setting", *PAIR, "run", "value"]] for name in (arm, other))
        if ours.empty or theirs.empty:
            raise SystemExit(f"{self.name}: {arm} and {other}: must be among {', '.join(runs['arm'].unique())}")
        return ours.merge(theirs, on=["setting", *PAIR], suffixes=("", "_other")).dropna(
            subset=["value", "value_other"]
        )

    def _differences(self, arm: str, other: str, metric: str) -> list[float]:
        pairs = self._pairs(arm, other, metric)
        return list(pairs["value"] - pairs["value_other"])

    def _rounds_saved(self, arm: str, other: str) -> list[float]:
        tables: dict[Any, pd.DataFrame] = dict(iter(self.study.rounds.groupby("run")))
        better = self.study.better[self.metric]

        def needed(run: int, goal: float) -> float:
            return float(min(first_at(tables[run], self.metric, better, goal)["round"], tables[run]["round"].max() + 1))

        pairs = self._pairs(arm, other, self.metric)[["run", "run_other", "value_other"]].to_numpy()
        return [needed(theirs, goal) - needed(ours, goal) for ours, theirs, goal in pairs]


def _interval(numbers: pd.Series) -> str:
    if len(numbers := numbers.dropna()) < 2:  # of one there is no interval
        return "".join(f"{number:.3f}" for number in numbers)
    mean, half = statistics.interval(numbers)
    return f"{mean:.3f} ± {half:.3f}"


def _sum(name: str, value: float, base: float) -> str:
    """A sum with how many times less or more it is than the baseline's, where it is not the same."""
    text = decimal(int(value)) if name.startswith("bytes") else f"{value:,.0f}"
    if value == base or not value or not base:
        return text
    return f"{text} ({base / value:.3g}x less)" if value < base else f"{text} ({value / base:.3g}x more)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "outputs" / "pages")
    parser.add_argument("--as-it-is", action="store_true")
    parser.add_argument("--page", default="*.md", help="only that page, such as attacks.md")
    given = vars(parser.parse_args())
    pages = sorted(TEMPLATES.glob(given.pop("page")))
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True, autoescape=False,
    )  # fmt: skip
    for file in pages:
        page = templates.get_template(file.name).render(study=lambda *names: Shown(*names, **given))
        (DOCS / file.name).write_text(page)


if __name__ == "__main__":
    main()
