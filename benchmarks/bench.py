"""Run the contenders side by side and write benchmarks/results.md.

    make bench                  (or .venv/bin/python benchmarks/bench.py [WORK ...] [--repeats N])

Each contender prints "round k" at the end of a round; the time of that line is what counts. Contenders take turns
within a repeat, so that what else the machine does hits all alike. Memory is measured in a run of its own.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.progress import track
from works import WORKS, Work, make_data

from fl_bench.machine import describe

HERE = Path(__file__).resolve().parent
PYTHON = Path(sys.executable)
LONGEST = 600  # seconds that a contender may take
MEMORY_ROUNDS = 3


class Measured(NamedTuple):
    first: float  # seconds from the start of the process to the end of the first round
    each: float  # median seconds of the later rounds
    peak_mb: float  # of all processes together, shared pages once; nan where it was not measured


def script(name: str, *more: str) -> Callable[[str, Work, Path, int], list[str]]:
    return lambda key, work, folder, rounds: [str(PYTHON), str(HERE / name), key, str(folder), str(rounds), *more]


def fl_bench(*words: str) -> Callable[[str, Work, Path, int], list[str]]:
    def command(key: str, work: Work, folder: Path, rounds: int) -> list[str]:
        return [
            str(PYTHON.with_name("fl-bench")), "--config-dir", str(HERE / "conf"), f"task=bench_{work.task}",
            "data=files", f"data.root={folder}", f"num_clients={work.clients}", "partition.holdout=0",
            f"clients_per_round={work.cohort}", f"num_rounds={rounds}", f"local.batch_size={work.batch_size}",
            f"local.steps={1 if work.one_step else 'null'}", f"evaluate.every={rounds + 1}", "figures=false",
            f"hydra.run.dir={folder / 'run'}", *words,
        ]  # fmt: skip

    return command


LIMIT, ALONE, FLOWER, OURS, INLINE = "limit", "limit, 1 process", "plain Flower", "fl-bench", "fl-bench inline"
ONE_WORKER, STACKED = "fl-bench, 1 worker", "fl-bench inline, vectorize=50"
EDGES, RING = "fl-bench inline, topology=hierarchical", "fl-bench inline, topology=ring"
CONTENDERS = {
    LIMIT: script("limit.py"),
    ALONE: script("limit.py", "1"),
    FLOWER: script("plain_flower.py"),
    OURS: fl_bench(),
    ONE_WORKER: fl_bench(f"engine.client_resources.num_cpus={len(os.sched_getaffinity(0))}"),
    INLINE: fl_bench("engine=inline"),
    STACKED: fl_bench("engine=inline", "engine.vectorize=50"),
    EDGES: fl_bench("engine=inline", "topology=hierarchical"),
    RING: fl_bench("engine=inline", "topology=ring"),
}
# D's million SuperNodes would take hours.
ONLY = {ONE_WORKER: "C", STACKED: "BD", EDGES: "A", RING: "A", FLOWER: "ABCE"}

# What is hoped for: of which work, in words, the value from the medians by contender, and the most it should be.
Medians = dict[str, Measured]
TARGETS: list[tuple[str, str, Callable[[Medians], float], float]] = [
    ("A", "a round, by the limit's", lambda m: m[OURS].each / m[LIMIT].each, 1.15),
    ("B", "a round, by the limit's", lambda m: m[OURS].each / m[LIMIT].each, 1.4),
    ("C", "a round, by the limit's", lambda m: m[OURS].each / m[LIMIT].each, 1.25),
    ("C", "memory, by the bytes of the data", lambda m: m[OURS].peak_mb / WORKS["C"].data_mb, 1.5),
    ("D", "a round, seconds above the limit's", lambda m: m[OURS].each - m[LIMIT].each, 0.5),
    ("D", "seconds to the end of the first round", lambda m: m[OURS].first, 10),
    ("E", "a round, by the limit's", lambda m: m[OURS].each / m[LIMIT].each, 1.3),
    ("A", "the end of the first round, by plain Flower's", lambda m: m[OURS].first / m[FLOWER].first, 0.6),
    ("B", "the end of the first round, by plain Flower's", lambda m: m[OURS].first / m[FLOWER].first, 0.6),
    ("A", "inline: the end of the first round, by one bare process's", lambda m: m[INLINE].first / m[ALONE].first, 1.5),
    ("B", "inline: the end of the first round, by one bare process's", lambda m: m[INLINE].first / m[ALONE].first, 1.5),
    ("A", "inline: a round with edges, by one without", lambda m: m[EDGES].each / m[INLINE].each, 1.2),
    ("A", "inline: a round in a ring, by one of a star", lambda m: m[RING].each / m[INLINE].each, 1.2),
]


def measure(command: Sequence[str], rounds: int, memory: bool) -> Measured:
    """Run a contender to its end. Raises RuntimeError where it fails or takes too long; nothing of it is left."""
    environment = os.environ | {"PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        )
        guard = threading.Timer(LONGEST, os.killpg, (process.pid, signal.SIGKILL))
        guard.start()
        peak = Peak(process.pid) if memory else None
        ends = [time.perf_counter() for line in process.stdout or () if _is_round(line)]
        process.wait()
        guard.cancel()
        megabytes = peak.stop() if peak else math.nan
        if process.returncode or len(ends) != rounds:
            errors.seek(0)
            raise RuntimeError(f"exit {process.returncode}: {' '.join(command)}\n{errors.read()[-2000:]}")
    return Measured(ends[0] - start, statistics.median(b - a for a, b in pairwise(ends)), megabytes)


def _is_round(line: str) -> bool:
    return line.startswith("round ") and not line.startswith("round 0/")


class Peak(threading.Thread):
    """Adds up the proportional set size of a process and all below it, a few times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.peak, self.done = psutil.Process(pid), 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.done.wait(0.3):
            try:
                family = (self.root, *self.root.children(recursive=True))
                self.peak = max(self.peak, sum(process.memory_full_info().pss for process in family))
            except psutil.Error:  # one has just ended
                continue

    def stop(self) -> float:
        self.done.set()
        self.join()
        return self.peak / 2**20


def run(key: str, repeats: int) -> dict[str, list[Measured] | None]:
    """All contenders on one work, `repeats` times in turn and then once for memory; None where one fails."""
    work = WORKS[key]
    found: dict[str, list[Measured] | None] = {name: [] for name in CONTENDERS if key in ONLY.get(name, key)}
    with tempfile.TemporaryDirectory(prefix="fl-bench-bench-") as scratch:
        folder = Path(scratch)
        make_data(work, folder)
        turns = [(name, repeat == repeats) for repeat in range(repeats + 1) for name in found]
        for name, memory in track(turns, f"work {key}"):
            measurements = found[name]
            if measurements is None:
                continue
            rounds = MEMORY_ROUNDS if memory else work.rounds
            try:
                measurements.append(measure(CONTENDERS[name](key, work, folder, rounds), rounds, memory))
            except RuntimeError as error:
                print(f"{key}, {name}: {error}", file=sys.stderr)
                found[name] = None
    return found


def median(measurements: Sequence[Measured]) -> Measured:
    """The medians of the timed runs, with the memory of the last."""
    *timed, last = measurements
    first, each = (statistics.median(getattr(m, field) for m in timed) for field in ("first", "each"))
    return Measured(first, each, last.peak_mb)


def report(results: dict[str, dict[str, list[Measured] | None]], repeats: int) -> str:
    """results.md from the measurements, by work and contender."""
    about = describe()
    hardware, versions = about["hardware"], about["versions"]
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    medians = {key: {name: median(m) for name, m in found.items() if m} for key, found in results.items()}
    lines = [
        "# Speed", "",
        f"Made by `make bench` on {hardware['processor']}, {hardware['cpus']} CPUs, {gpus}; Python "
        f"{versions['python']}, torch {versions['torch']}, Flower {versions['flwr']}, Ray {versions['ray']}.", "",
        f"Medians of {repeats} repeats, with the range; contenders took turns. A round is the median of all but the",
        "first. Memory is the proportional set size of all processes together, so that shared pages count once.", "",
        "- *limit*: a process for each processor in a bare PyTorch loop, averaging in shared memory, and nothing else",
        "- *plain Flower*: what its quickstart has one write, a SuperNode for each client; all on the same files",
        "- *fl-bench*: with default settings, but without tests each round and figures, as the others have none",
        "", "[docs/speed.md](../docs/speed.md) says where the time goes.", "",
        "## What was hoped for", "", "| work | | measured | at most | |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for key, text, value, most in TARGETS:
        if key in medians and medians[key].keys() == results[key].keys():
            got = value(medians[key])
            lines.append(f"| {key} | {text} | {got:.2f} | {most} | {'holds' if got <= most else '**does not hold**'} |")
    for key, found in results.items():
        lines += ["", f"## {key}: {WORKS[key].about}", ""]
        lines += ["| | seconds a round | by the limit's | to the end of the first round | peak MB |"]
        lines += ["|---|---|---|---|---|"]
        for name, measurements in found.items():
            if measurements is None:
                lines.append(f"| {name} | failed | | | |")
                continue
            each, first = ([getattr(m, field) for m in measurements[:-1]] for field in ("each", "first"))
            ratio = medians[key][name].each / medians[key][LIMIT].each
            memory = medians[key][name].peak_mb
            lines.append(f"| {name} | {_spread(each, 3)} | {ratio:.2f} | {_spread(first, 1)} | {memory:.0f} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure fl-bench beside others.")
    parser.add_argument("works", nargs="*", default=list(WORKS), help=f"of {', '.join(WORKS)}; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="write the page again from the last measurements")
    given = parser.parse_args()
    raw = HERE.parent / "outputs" / "bench.json"
    results: dict[str, dict[str, list[Measured] | None]] = {}
    if given.report:
        for key, found in json.loads(raw.read_text()).items():
            results[key] = {name: m and [Measured(*one) for one in m] for name, m in found.items()}
    else:
        for key in given.works:
            results[key] = run(key, given.repeats)
            raw.write_text(json.dumps(results))
    (HERE / "results.md").write_text(report(results, given.repeats))


if __name__ == "__main__":
    main()
