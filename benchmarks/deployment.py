"""Run rounds over a real link, beside Flower's own SuperLink and SuperNodes, and write benchmarks/deployment.md.

    make bench                  (or .venv/bin/python benchmarks/deployment.py [WORK ...])

All processes are on this machine. Ours have TLS, keys and signatures, and Flower's have none of them. The rounds
after the first count. Stock Flower's clients train the same model for as many steps, on random rows.
"""

import argparse
import csv
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.progress import track

from fl_bench.deployment.link import ENVIRONMENT
from fl_bench.machine import describe

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 900
LARGE = ("model=mlp", "model.hidden=[5000,4200]", "local.steps=1")


class Work(NamedTuple):
    about: str
    sites: int
    rounds: int
    words: tuple[str, ...] = ()

    @property
    def large(self) -> bool:
        return self.words == LARGE


class Measured(NamedTuple):
    rounds: list[float]  # seconds of each after the first
    link: float  # processor seconds of the link for each of them


WORKS = {
    "A": Work("3 sites, logistic regression on digits (31 kB)", 3, 12),
    "B": Work("20 sites, the same", 20, 5),
    "C": Work("3 sites, a model of 25 million numbers (100 MB)", 3, 4, LARGE),
}
STOCK_ROUNDS = 4  # of some 20 s each
DATABASE, STOCK = "fl-bench, with `--database`", "stock Flower"
ONLY = {DATABASE: "A", STOCK: "AC"}  # 20 SuperNodes start a process for each message: too many for a small machine


class Processes:
    """Commands in a folder, of which none outlives the `with` of `processes`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *words: object) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.txt").open("wb") as output:
            command = [str(BIN / str(words[0])), *map(str, words[1:])]
            started = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        self.all.append(started)
        return started

    def finish(self, name: str, *words: object) -> None:
        """Raises RuntimeError where the command fails, and TimeoutExpired where it takes too long."""
        if self.start(name, *words).wait(PATIENCE_SECONDS):
            raise RuntimeError((self.folder / f"{name}.txt").read_text()[-2000:])

    def wait(self, name: str, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in (self.folder / f"{name}.txt").read_text():
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / f"{name}.txt").read_text()[-2000:])
            time.sleep(0.2)


@contextmanager
def processes() -> Iterator[Processes]:
    with tempfile.TemporaryDirectory(prefix="fl-bench-bench-") as scratch:
        found = Processes(Path(scratch))
        try:
            yield found
        finally:
            for process in reversed(found.all):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
            for process in found.all:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def processor_seconds(process: psutil.Process) -> float:
    family = [process, *process.children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in family)


def ours(work: Work, *link_words: str, words: Sequence[str] = ()) -> Measured:
    """fl-bench, whose link keeps all in memory unless these words say otherwise; `words` are of the run."""
    names, port = [f"site{k}" for k in range(1, work.sites + 1)], free_port()
    about = ("task=mnist", f"num_clients={work.sites}", "figures=false", f"evaluate.every={work.rounds}", *work.words)
    engine = ("engine=deployment", f"engine.link=127.0.0.1:{port}", "engine.certs=keys/driver", "engine.wait_s=300")
    with processes() as here:
        here.finish("inline", "fl-bench", *about, "num_rounds=1", "evaluate.every=1", "hydra.run.dir=inline")
        here.finish("certs", "fl-bench", "certs", "keys", "--sites", ",".join(names))
        here.finish("share", "fl-bench", "share", "inline", "shares", "--sites", ",".join(names))
        link = here.start("link", "fl-bench", "link", "--certs", "keys/link", "--port", port, *link_words)
        here.wait("link", "link: listening")
        for name in names:
            folders = ("--certs", f"keys/sites/{name}", "--data", f"shares/{name}", "--root", f"root/{name}")
            here.start(name, "fl-bench", "site", "--link", f"127.0.0.1:{port}", "--name", name, *folders)
        for name in names:
            here.wait(name, f"{name}: at")
        before = processor_seconds(psutil.Process(link.pid))
        rounds = (f"num_rounds={work.rounds}", f"engine.sites={work.sites}", "hydra.run.dir=run")
        here.finish("driver", "fl-bench", *about, *engine, *rounds, *words)
        used = processor_seconds(psutil.Process(link.pid)) - before
        rows = list(csv.DictReader((here.folder / "run" / "timing.csv").open()))
        seconds = [sum(float(value) for name, value in row.items() if name.endswith("_seconds")) for row in rows]
        return Measured(seconds[2:], used / work.rounds)


def stock(work: Work) -> Measured:
    """Flower's own commands, with an app that does no more than train."""
    port = free_port()
    with processes() as here:
        (here.folder / "home").mkdir()
        server = f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        (here.folder / "home" / "config.toml").write_text(server)
        here.environment["FLWR_HOME"] = str(here.folder / "home")
        here.environment["STOCK_APP_TIMES"] = str(here.folder / "times.txt")
        shutil.copytree(HERE / "stock", here.folder / "app")
        plain = ("--insecure", "--disable-runtime-dependency-installation")
        link = here.start("link", "flower-superlink", *plain, "--port", port)
        for k in range(work.sites):
            node = ("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", free_port())
            here.start(f"node{k}", *node)
        deadline = time.monotonic() + PATIENCE_SECONDS
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
                time.sleep(0.5)
        before = processor_seconds(psutil.Process(link.pid))
        large = str(work.large).lower()
        rounds = min(work.rounds, STOCK_ROUNDS)
        config = f"rounds={rounds} nodes={work.sites} large={large}"
        here.finish("run", "flwr", "run", "app", "bench", "--stream", "--run-config", config)
        used = processor_seconds(psutil.Process(link.pid)) - before
        ends = [float(line) for line in (here.folder / "times.txt").read_text().split()]
        if len(ends) != rounds + 1:
            raise RuntimeError((here.folder / "run.txt").read_text()[-2000:])
        return Measured([b - a for a, b in pairwise(ends)][1:], used / rounds)


CONTENDERS: dict[str, Callable[[Work], Measured]] = {
    "fl-bench": ours,
    "fl-bench, with masks": lambda work: ours(work, words=("secure_aggregation=masks",)),
    DATABASE: lambda work: ours(work, "--database", "link.db"),
    STOCK: stock,
}


def report(results: dict[str, dict[str, Measured | None]]) -> str:
    about = describe()
    hardware, versions = about["hardware"], about["versions"]
    lines = [
        "# Speed of a deployment", "",
        f"Made by `make bench` on {hardware['processor']}, {hardware['cpus']} CPUs; Python {versions['python']}, torch "
        f"{versions['torch']}, Flower {versions['flwr']}.", "",
        "Link, sites and driver are on this one machine. Medians of the rounds after the first, with the range.",
        "fl-bench has TLS, keys and signatures; stock Flower (`flwr run`, `flower-supernode`) has none.",
        "20 SuperNodes are not tried: each starts a process for each message, more than this machine has room for.",
    ]  # fmt: skip
    for key, found in results.items():
        lines += ["", f"## {key}: {WORKS[key].about}", "", "| | seconds a round | processor seconds of the link |"]
        lines += ["|---|---|---|"]
        for name, measured in found.items():
            if measured is None:
                lines.append(f"| {name} | failed | |")
                continue
            seconds = measured.rounds
            spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
            lines.append(f"| {name} | {spread} | {measured.link:.2f} |")
    return "\n".join(lines) + "\n"


def run(keys: Sequence[str]) -> dict[str, dict[str, Measured | None]]:
    results: dict[str, dict[str, Measured | None]] = {key: {} for key in keys}
    turns = [(key, name) for key in keys for name in CONTENDERS if key in ONLY.get(name, key)]
    for key, name in track(turns, "deployment"):
        try:
            results[key][name] = CONTENDERS[name](WORKS[key])
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{key}, {name}: {error}", file=sys.stderr)
            results[key][name] = None
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure rounds over a real link.")
    parser.add_argument("works", nargs="*", default=list(WORKS), help=f"of {', '.join(WORKS)}; all by default")
    (HERE / "deployment.md").write_text(report(run(parser.parse_args().works)))


if __name__ == "__main__":
    main()
