"""Run the contenders side by side and write benchmarks/results.md.

    make bench          (or .venv/bin/python benchmarks/bench.py [WORK ...] [--repeats N])

Each contender prints "round k" at the end of a round; the time of that line is what counts. Contenders take turns within
a repeat, so that what else the machine does hits all alike. Memory is measured in a run of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.progress import track
from works import WORKS, Work, make_data

from fl_bench.machine import describe

HERE = Path(__file__).resolve().parent
PYTHON = Path(sys.executable)


class Measured(NamedTuple):
    first: float  # seconds from the start of the process to the end of the first round
    each: float  # median seconds of the later rounds
    peak_mb: float  # of all processes together, shared pages once; nan where it was not measured


def script(name: str, *more: str) -> Callable[[str, Work, Path, int], list[str]]:
    return lambda key, work, folder, rounds: [str(PYTHON), str(HERE / name), key, str(folder), str(rounds), *more]


def fl_bench(*words: str) -> Callable[[str, Work, Path, int], list[str]]:
    def command(key: str, work: Work, folder: Path, rounds: int) -> list[str]:
        return [
            str(PYTHON.with_name("fl-bench")), "--config-dir", str(HERE / "conf"), f"task=bench_{work.task}", "data=files",
            f"data.root={folder}", f"num_clients={work.clients}", "partition.holdout=0",
            f"clients_per_round={work.cohort}", f"num_rounds={rounds}", f"local.batch_size={work.batch_size}",
            "local.epochs=1",
            f"local.steps={1 if work.one_step else 'null'}", f"evaluate.every={rounds + 1}", "figures=false",
            f"hydra.run.dir={folder / 'run'}", *words,
        ]  # fmt: skip

    return command


CONTENDERS = {
    "limit": script("limit.py"),
    "limit, 1 process": script("limit.py", "1"),
    "plain Flower": script("plain_flower.py"),
    "fl-bench": fl_bench(),
    "fl-bench inline": fl_bench("engine=inline"),
}


def measure(command: list[str], rounds: int, memory: bool) -> Measured:
    """Run a contender to its end. Raises CalledProcessError where it fails."""
    environment = os.environ | {"PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        peak = Peak(process.pid) if memory else None
        ends = [time.perf_counter() for line in process.stdout or () if _is_round(line)]
        if process.wait() or len(ends) != rounds:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}\n{errors.read()[-2000:]}")
    each = statistics.median(b - a for a, b in zip(ends, ends[1:], strict=False))
    return Measured(ends[0] - start, each, peak.stop() if peak else float("nan"))


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
            total = 0
            try:
                for process in (self.root, *self.root.children(recursive=True)):
                    total += process.memory_full_info().pss
            except psutil.Error:  # one has just ended
                continue
            self.peak = max(self.peak, total)

    def stop(self) -> float:
        self.done.set()
        self.join()
        return self.peak / 2**20


def run(key: str, repeats: int) -> dict[str, list[Measured]]:
    """All contenders on one work: `repeats` times in turn, then once for memory."""
    work, found = WORKS[key], {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="fl-bench-bench-") as scratch:
        folder = Path(scratch)
        make_data(work, folder)
        turns = [(name, memory) for memory in (*[False] * repeats, True) for name in CONTENDERS]
        for name, memory in track(turns, f"work {key}"):
            if found[name] is None:
                continue
            rounds = 3 if memory else work.rounds
            try:
                found[name].append(measure(CONTENDERS[name](key, work, folder, rounds), rounds, memory))
            except RuntimeError as error:
                print(f"{key}, {name}: {error}", file=sys.stderr)
                found[name] = None
    return found


def report(results: dict[str, dict[str, list[Measured] | None]], repeats: int) -> str:
    """results.md from the measurements, by work and contender."""
    about = describe()
    hardware, versions = about["hardware"], about["versions"]
    lines = [
        "# Speed", "",
        f"Made by `make bench` on {hardware['processor']}, {hardware['cpus']} CPUs, GPUs: {hardware['gpus'] or 'none'}; "
        f"Python {versions['python']}, torch {versions['torch']}, Flower {versions['flwr']}, Ray {versions['ray']}.",
        f"Medians of {repeats} repeats, with the range; contenders took turns. A round is the median of all but the first.",
        "Memory is the proportional set size of all processes together, so that shared pages count once.", "",
    ]  # fmt: skip
    for key, found in results.items():
        lines += [f"## {key}: {WORKS[key].about}", ""]
        limit = statistics.median(m.each for m in found["limit"][:-1]) if found["limit"] else float("nan")
        lines += ["| | seconds a round | x limit | to the end of the first round | peak MB |", "|---|---|---|---|---|"]
        for name, all_of_it in found.items():
            if all_of_it is None:
                lines.append(f"| {name} | failed | | | |")
                continue
            timed, memory = all_of_it[:-1], all_of_it[-1]
            each = statistics.median(m.each for m in timed)
            lines.append(
                f"| {name} | {_spread([m.each for m in timed], 3)} | {each / limit:.2f} "
                f"| {_spread([m.first for m in timed], 1)} | {memory.peak_mb:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure fl-bench beside others.")
    parser.add_argument("works", nargs="*", default=list(WORKS), help=f"of {', '.join(WORKS)}; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    results = {key: run(key, given.repeats) for key in given.works}
    (HERE / "results.md").write_text(report(results, given.repeats))
    print(report(results, given.repeats))


if __name__ == "__main__":
    main()
