"""Runs to compare, from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fl_bench.api.command import call, words_of
from fl_bench.errors import ConfigError
from fl_bench.studies import compare, study, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sweep(*words: str, by: str | Sequence[str] = (), **keys: Any) -> "Study":
    """Run each combination of the values, as `fl-bench -m` does with these words, and wait for the end of all.

    A list is values to run with: `sweep("strategy=fedavg,scaffold", seed=[0, 1, 2])`. `by` is that of `load`. Raises
    what `run` raises; the runs that have ended stay, and `load` reads them.
    """
    return load(call(["-m", *words_of(words, keys, is_sweep=True)]), by=by)


def load(*folders: str | PathLike[str], by: str | Sequence[str] = ()) -> "Study":
    """All finished runs below the folders; `by` names the keys that make what is compared, instead of all that are no
    condition.

    `by="strategy,local.lr"` is `by=["strategy", "local.lr"]`. Raises ConfigError where no folder is named or one is not
    there, no run below counts, or no run has such a key.
    """
    if not folders:
        raise ConfigError('load(): must name a folder, such as load("outputs/multirun")')
    paths, keys = [Path(folder) for folder in folders], by.split(",") if isinstance(by, str) else by
    return Study(**vars(study.load(paths, keys)), folders=paths, by=keys)


@dataclass(frozen=True)
class Study(study.Study):
    """Runs to compare: the tables `runs` and `rounds`, and what can be done with them. `skipped` are the other runs.

    A question has the words of `fl-bench compare`: `metric`, a column of `rounds`, or else the target_metric of the
    runs; `baseline`, an arm, or else the first with strategy=fedavg, or the first, of each setting; `at`, what of a
    run counts: final, last:K, best or area; `target`, a value to come to. What cannot be answered raises ConfigError.
    """

    folders: Sequence[Path]
    by: Sequence[str]

    def compare(
        self, metric: str | None = None, baseline: str | None = None, at: str = "final", target: float | None = None
    ) -> "Answer":
        """Each arm against the baseline: differences with intervals and p, and costs."""
        return Answer(**vars(compare.compare(self, metric, baseline, at, target)))

    def table(self, **question: Any) -> pd.DataFrame:
        """The rows of `compare`, in unrounded numbers: one for each setting and arm."""
        return self.compare(**question).differences

    def plot(self, metric: str | None = None, over: str = "round") -> "Figure":
        """The metric's mean over the runs of each arm, with their range, a panel for each setting.

        Over the columns round, steps (of all clients, so far), bytes (both ways), virtual_seconds or wall_seconds.
        """
        from fl_bench.api.plot import plot

        return plot(self, metric, over)

    def report(
        self,
        out: str | PathLike[str] | None = None,
        metric: str | None = None,
        baseline: str | None = None,
        at: str = "final",
        target: float | None = None,
    ) -> Path:
        """Write report.html, tables and figures into `out`, or the first folder that was loaded; return the page."""
        from fl_bench.studies.report import make

        question = {"metric": metric, "baseline": baseline, "at": at, "target": target}
        place = self.folders[0] if out is None else Path(out)
        return make(self, self.folders, self.by, place, **question)[1][0]

    def __repr__(self) -> str:
        counts = {"run": len(self.runs)} | {name: self.runs[name].nunique() for name in ("arm", "seed", "setting")}
        said = ", ".join(f"{number} {name}{'s' * (number != 1)}" for name, number in counts.items())
        return f"<Study of {said}; {len(self.skipped)} left out>"

    def _repr_html_(self) -> str:
        """How many runs there are of what."""
        counts = self.runs.groupby(["setting", "arm"], sort=False).size().unstack(fill_value=0)
        return str(counts.to_html())


class Answer(compare.Comparison):
    """The answer of `Study.compare`. Printed it is the tables of `fl-bench compare`; notebooks show them too."""

    def __str__(self) -> str:
        return tables.text(self)

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return tables.markdown(self)
