"""Runs to compare, from Python."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from fl_bench.api.command import call, words_of
from fl_bench.studies import study


def sweep(*words: str, by: Sequence[str] = (), **keys: Any) -> "Study":
    """Run each combination of the values, as `fl-bench -m` does with these words, and wait for the end of all.

    A list is values to run with: `sweep("strategy=fedavg,scaffold", seed=[0, 1, 2])`. `by` is that of `load`. Raises
    what `run` raises; the runs that have ended stay, and `load` reads them.
    """
    return load(call(["-m", *words_of(words, keys, is_sweep=True)]), by=by)


def load(*folders: str | PathLike[str], by: Sequence[str] = ()) -> "Study":
    """All finished runs below the folders; `by` names the keys that make what is compared, instead of all that are no
    condition.

    Raises ConfigError where a folder is not there, no run below counts, or no run has such a key.
    """
    return Study(**vars(study.load([Path(folder) for folder in folders], by)))


class Study(study.Study):
    """Runs to compare: the tables `runs` and `rounds`, and what can be done with them. `skipped` are the other runs."""

    def _repr_html_(self) -> str:
        """How many runs there are of what."""
        counts = self.runs.groupby(["setting", "arm"], sort=False).size().unstack(fill_value=0)
        return str(counts.to_html())
