"""Run the cells of one sweep in several ways and write benchmarks/sweep.md.

    make bench                  (or .venv/bin/python benchmarks/sweep.py [--seeds N] [--repeats N])

They take turns. What counts is the time from the start of the first process to the end of the last, with
figures, but for the one that says so, and the report. The bare rounds are what the cells' own timing.csv says.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from fl_bench.machine import describe

HERE = Path(__file__).resolve().parent
FL_BENCH = Path(sys.executable).with_name("fl-bench")
CORES = len(os.sched_getaffinity(0))
FIXED = ["task=cifar", "num_rounds=10", "partition=dirichlet"]
STRATEGIES, ALPHAS = ("fedavg", "fedprox", "scaffold", "fedadam"), (0.1, 1.0)
OVERHEAD, START = 1.25, 8  # of the bare rounds on all cores, and seconds: what a sweep may take


class Measured(NamedTuple):
    seconds: float
    bare: float  # seconds of all rounds of all cells together

    @property
    def most(self) -> float:
        """The seconds that it may take."""
        return OVERHEAD * self.bare / CORES + START


Commands = list[list[str]]  # one after the other


def sweep(*words: str) -> Callable[[Path, int], Commands]:
    def commands(folder: Path, seeds: int) -> Commands:
        swept = {"strategy": STRATEGIES, "partition.alpha": ALPHAS, "seed": range(seeds)}
        values = [f"{key}={','.join(map(str, several))}" for key, several in swept.items()]
        return [["-m", *FIXED, *values, *words, f"hydra.sweep.dir={folder}"]]

    return commands


def one_by_one(folder: Path, seeds: int) -> Commands:
    return [
        [*FIXED, f"strategy={strategy}", f"partition.alpha={alpha}", f"seed={seed}", "engine=inline",
         f"hydra.run.dir={folder / f'{strategy}_{alpha}_{seed}'}"]
        for strategy, alpha, seed in product(STRATEGIES, ALPHAS, range(seeds))
    ]  # fmt: skip


OURS = "fl-bench -m"
CONTENDERS: dict[str, Callable[[Path, int], Commands]] = {
    OURS: sweep(),
    f"{OURS} figures=false": sweep("figures=false"),
    "Hydra's joblib launcher": sweep("engine=inline", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={CORES}"),
    "a process after the other": one_by_one,
}


def measure(make: Callable[[Path, int], Commands], seeds: int) -> Measured:
    """Raises RuntimeError where a command fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="fl-bench-bench-") as scratch:
        folder = Path(scratch) / "sweep"
        start = time.perf_counter()
        for words in make(folder, seeds):
            done = subprocess.run([FL_BENCH, *words], capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise RuntimeError(f"exit {done.returncode}: {' '.join(words)}\n{done.stderr[-2000:]}")
        seconds = time.perf_counter() - start
        tables = list(folder.glob("*/timing.csv"))
        assert len(tables) == len(STRATEGIES) * len(ALPHAS) * seeds
        return Measured(seconds, sum(map(_rounds, tables)))


def _rounds(timing: Path) -> float:
    rows = csv.DictReader(timing.read_text().splitlines())
    return sum(float(value) for row in rows for name, value in row.items() if name.endswith("_seconds"))


def report(results: dict[str, list[Measured]], seeds: int) -> str:
    about = describe()
    hardware, versions = about["hardware"], about["versions"]
    strategies, alphas = len(STRATEGIES), len(ALPHAS)
    lines = [
        "# Speed of a sweep", "",
        f"Made by `make bench` on {hardware['processor']}, {hardware['cpus']} CPUs; Python {versions['python']}, torch "
        f"{versions['torch']}, Ray {versions['ray']}.", "",
        f"{strategies * alphas * seeds} cells ({strategies} strategies x {alphas} alphas x {seeds} seeds) of "
        f"`{' '.join(FIXED)}`, with figures; all but the last end with a report.",
        f"Medians of {len(results[OURS])} repeats, with the range; they took turns. The bare rounds are those of "
        "the same run, all cells together.",
        f"Hoped for: at most {OVERHEAD} x bare rounds / {CORES} cores + {START} s.", "",
        "| | seconds | bare rounds | hoped for, at most | seconds by that | |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, measured in results.items():
        seconds = [one.seconds for one in measured]
        bare, most, ratio = (
            statistics.median(values)
            for values in zip(*((one.bare, one.most, one.seconds / one.most) for one in measured), strict=True)
        )
        verdict = "holds" if ratio <= 1 else "**does not hold**"
        spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        lines.append(f"| {name} | {spread} | {bare:.1f} | {most:.1f} | {ratio:.2f} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a sweep beside the same cells run otherwise.")
    parser.add_argument("--seeds", type=int, default=3, help="of each strategy and alpha: eight cells each")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    results: dict[str, list[Measured]] = {name: [] for name in CONTENDERS}
    for name in track([*CONTENDERS] * given.repeats, "sweep"):
        results[name].append(measure(CONTENDERS[name], given.seeds))
    (HERE / "sweep.md").write_text(report(results, given.seeds))


if __name__ == "__main__":
    main()
