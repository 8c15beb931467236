"""Runs over a real link, with TLS and keys, on three sites, each a process: their files are those of engine=inline."""

import hashlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import forks
import pytest
from conftest import FORKS, compose, digests, environment, long

from fl_bench.deployment import keys
from fl_bench.runs.execute import execute
from fl_bench.runs.share import share_out

NAMES = ("site1", "site2", "site3")
WORDS = ("task=mnist", "num_clients=4", "num_rounds=3", "strategy=scaffold", "evaluate.clients=true", "figures=false")
PATIENCE_SECONDS = 200  # on a machine that does other things too


class Deployment:
    """The processes of a link and its sites, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, BaseProcess] = {}
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.link = f"127.0.0.1:{server.getsockname()[1]}"

    def start(self, name: str, *words: str) -> None:
        """Start a command, whose output goes to files of its name."""
        outputs = [self.folder / f"{name}.{kind}" for kind in ("out", "err")]
        for file in outputs:
            file.write_text("")  # now, as somebody may wait for what it says
        child = FORKS.Process(target=forks.command, args=(words, self.folder, environment(self.folder), outputs))
        child.start()
        self.processes[name] = child

    def start_link(self, *words: str) -> None:
        port = self.link.rpartition(":")[2]
        self.start("link", "link", "--certs", "keys/link", "--port", port, "--database", "link.db", *words)

    def start_site(self, name: str, certs: str = "", data: str = "") -> None:
        folders = (
            "--certs",
            f"keys/sites/{certs or name}",
            "--data",
            f"shares/{data or name}",
            "--root",
            f"root/{name}",
        )
        self.start(name, "site", "--link", self.link, "--name", name, *folders)

    def words(self, run: str, *words: str) -> tuple[str, ...]:
        engine = ("engine=deployment", f"engine.link={self.link}", "engine.certs=keys/driver", "engine.sites=3")
        return (*WORDS, *engine, f"hydra.run.dir={run}", *words)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int | None:
        """Send a process a signal, and return its exit code."""
        process = self.processes.pop(name)
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(PATIENCE_SECONDS)
        return process.exitcode

    def said(self, name: str) -> str:
        return "".join((self.folder / f"{name}.{kind}").read_text() for kind in ("out", "err"))

    def wait(self, name: str, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.said(name):
            assert self.processes[name].is_alive(), self.said(name)
            assert time.monotonic() < deadline, self.said(name)
            time.sleep(0.02)

    def digests(self, run: str) -> dict[str, str]:
        """Of a run's tables and model, and of its clients' states at the sites, whose newest run it must be."""
        found = digests(self.folder / run)
        for name in NAMES:
            newest = max((self.folder / "root" / name / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
            for file in newest.glob("state/*/*"):
                found[str(file.relative_to(newest))] = hashlib.sha256(file.read_bytes()).hexdigest()
        return found

    def close(self) -> None:
        for name in list(self.processes):
            with suppress(ProcessLookupError):
                self.kill(name)


@pytest.fixture
def deployed(tmp_path: Path, whole: Path) -> Iterator[Deployment]:
    """A link and three sites with the rows of `whole`, all there."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    found = Deployment(tmp_path)
    try:
        found.start_link()
        for name in NAMES:
            found.start_site(name)
        found.wait("link", "link: listening")
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys, a run of engine=inline, and what its clients hold by site."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("inline", "scratch"):
        (folder / name).mkdir()
    cfg = compose(*WORDS, "local.lr_horizon=3")  # as the command has it
    assert execute(cfg, folder / "inline", folder / "scratch") == 0
    keys.make(folder / "keys", NAMES)
    share_out(cfg, folder / "shares", NAMES)
    shutil.rmtree(folder / "scratch")
    return folder


def test_a_deployment_writes_what_one_process_writes_though_a_site_is_killed(deployed: Deployment) -> None:
    deployed.start("driver", *deployed.words("run"))
    deployed.wait("driver", "round 1/3")
    deployed.kill("site2")
    deployed.start_site("site2")
    deployed.processes["driver"].join(PATIENCE_SECONDS)
    assert deployed.processes["driver"].exitcode == 0, deployed.said("driver")
    assert deployed.digests("run") == digests(deployed.folder / "inline")
    for name in NAMES:  # each ends in order, so that it can come back at once
        assert deployed.kill(name, signal.SIGTERM) == 130
    deployed.start_site("site1")
    deployed.wait("site1", "site1: at")
    assert deployed.kill("link", signal.SIGTERM) == 130


@long
def test_a_link_that_is_killed_and_a_driver_that_is_stopped_lose_nothing(deployed: Deployment) -> None:
    deployed.start("driver", *deployed.words("run"))
    deployed.wait("driver", "round 1/3")
    deployed.kill("link")
    deployed.start_link()
    deployed.wait("driver", "round 2/3")
    assert deployed.kill("driver", signal.SIGINT) == 130
    deployed.start("driver", "resume", "run")
    deployed.processes["driver"].join(PATIENCE_SECONDS)
    assert deployed.processes["driver"].exitcode == 0, deployed.said("driver")
    assert deployed.digests("run") == digests(deployed.folder / "inline")


@long
def test_a_site_that_does_not_know_the_link_says_so(deployed: Deployment) -> None:
    keys.make(deployed.folder / "other", ["site1"])
    folders = ("--certs", "other/sites/site1", "--data", "shares/site1", "--root", "root/odd")
    deployed.start("odd", "site", "--link", deployed.link, "--name", "site1", *folders)
    odd = deployed.processes.pop("odd")
    odd.join(PATIENCE_SECONDS)
    assert odd.exitcode == 2
    assert "certificate verify failed" in deployed.said("odd")
