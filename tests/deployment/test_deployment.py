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
from conftest import FORKS, compose, digests, environment, long, table

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

    def call(self, *words: str) -> tuple[int | None, str]:
        """The exit code of a command, and what it has said."""
        name = f"call{len(list(self.folder.glob('call*.out')))}"
        self.start(name, *words)
        process = self.processes.pop(name)
        process.join(PATIENCE_SECONDS)
        return process.exitcode, self.said(name)

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
    share_out(cfg, folder / "shares", dict.fromkeys(NAMES, ()))
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
def test_masked_sums_of_sites_give_the_same_model_though_one_is_killed(deployed: Deployment) -> None:
    masked = ("secure_aggregation=masks", "evaluate.clients=false")
    deployed.start("driver", *deployed.words("run"), *masked)
    deployed.wait("driver", "round 1/3")
    deployed.kill("site2")
    deployed.start_site("site2")
    deployed.processes["driver"].join(PATIENCE_SECONDS)
    assert deployed.processes["driver"].exitcode == 0, deployed.said("driver")
    for name in ("model.safetensors", "partition.csv"):
        assert (deployed.folder / "run" / name).read_bytes() == (deployed.folder / "inline" / name).read_bytes()
    rows = [table(deployed.folder / run, "metrics") for run in ("run", "inline")]
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]
    assert "num_examples" not in table(deployed.folder / "run", "clients")[0]


@long
@pytest.mark.parametrize("privacy", ["example", "local"])
def test_noise_of_sites_does_not_follow_from_the_seed(deployed: Deployment, privacy: str) -> None:
    for run in ("run", "again"):
        code, said = deployed.call(*deployed.words(run, f"privacy={privacy}", "num_rounds=1"))
        assert code == 0, said
    runs = [deployed.folder / run for run in ("run", "again")]
    assert table(runs[0], "metrics")[0] == table(runs[1], "metrics")[0]
    models = [(run / "model.safetensors").read_bytes() for run in runs]
    assert models[0] != models[1]
    told = [{row["client"]: row["epsilon"] for row in table(run, "clients")} for run in runs]
    assert told[0] == told[1]
    assert all(1 < float(epsilon) < 10 for epsilon in told[0].values())


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


@long
def test_a_driver_without_rows_writes_the_same(deployed: Deployment) -> None:
    deployed.start("driver", *deployed.words("run", "partition=sites", "num_clients=auto"))
    deployed.wait("driver", "round 1/3")
    deployed.kill("site2")
    deployed.start_site("site2")
    deployed.wait("driver", "round 2/3")
    assert deployed.kill("driver", signal.SIGINT) == 130
    deployed.start("driver", "resume", "run")
    deployed.processes["driver"].join(PATIENCE_SECONDS)
    assert deployed.processes["driver"].exitcode == 0, deployed.said("driver")
    for name in ("metrics.csv", "clients.csv", "model.safetensors"):  # partition.csv has no labels
        ours, theirs = (deployed.folder / run / name for run in ("run", "inline"))
        assert ours.read_bytes() == theirs.read_bytes(), name


@long
@pytest.mark.timeout(600)
def test_sites_that_tell_no_number_of_rows_make_the_same_model(deployed: Deployment) -> None:
    """The run without masks has the same bound; what masks cost are bytes."""
    words = ("evaluate.clients=false", "max_examples=4096")
    assert deployed.call(*WORDS, *words, "engine=inline", "hydra.run.dir=plain")[0] == 0
    masked = ("secure_aggregation=masks", "partition=sites", "num_clients=auto")
    deployed.start("driver", *deployed.words("run", *words, *masked))
    deployed.wait("driver", "round 1/3")
    deployed.kill("site2")
    deployed.start_site("site2")
    deployed.processes["driver"].join(PATIENCE_SECONDS)
    assert deployed.processes["driver"].exitcode == 0, deployed.said("driver")
    ours, theirs = (deployed.folder / run for run in ("run", "plain"))
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    rows = [[{**row, "bytes_up": "", "bytes_down": ""} for row in table(run, "metrics")] for run in (ours, theirs)]
    assert rows[0] == rows[1]
    assert not (ours / "partition.csv").exists()
    assert deployed.call("resume", "run", "num_rounds=4")[0] == 0


@long
def test_a_simulation_is_promoted_and_its_turns_are_repeated_at_their_sites(deployed: Deployment) -> None:
    code, said = deployed.call("promote", "inline", "--link", deployed.link, "--certs", "keys/driver")
    assert (code, "the same to the last bit\n" in said) == (0, True), said
    assert "not compared: state: what clients keep lies at the sites" in said
    run = "inline_deployed"
    assert deployed.digests(run) == digests(deployed.folder / "inline")

    def kept() -> dict[str, bytes]:
        files = deployed.folder.glob("root/*/runs/*/state/*/*")
        return {f"{file} {file.stat().st_mtime_ns}": file.read_bytes() for file in files}

    before, own = kept(), digests(deployed.folder / run)
    for words in (
        ("3", "--client", "0"),
        ("3", "--client", "3", "--evaluation"),
        ("0", "--client", "3", "--evaluation"),
    ):
        code, said = deployed.call("replay", run, "--round", *words)
        assert (code, "the same as in clients.csv\n" in said) == (0, True), said
    for refused, why in (
        (
            ("replay", run, "--round", "2", "--client", "0"),
            "--round: there is no checkpoint of round 1 (there are: 2, 3)",
        ),
        (
            ("replay", run, "--round", "3", "--client", "9"),
            "--client 9: does not train in round 3; those who do: [0, 1",
        ),
        (("evaluate", run, "--clients"), "--clients: what this run's clients keep lies at their sites"),
        (("resume", run, "num_rounds=4", "engine=inline"), "engine: what this run's clients keep lies at their sites"),
    ):
        code, said = deployed.call(*refused)
        assert code == 2, said
        assert said.splitlines()[-1].startswith(f"fl-bench: {why}"), said
    assert kept() == before
    assert digests(deployed.folder / run) == own
    assert deployed.call("evaluate", run)[0] == 0
    for file in deployed.folder.glob("root/*/runs/*/state/0/2.safetensors"):
        file.unlink()
    code, said = deployed.call("replay", run, "--round", "3", "--client", "0")
    assert (code, said.splitlines()[-1].count("state/0/2.safetensors: is not there any more")) == (1, 1), said
    code, said = deployed.call("rerun", run)
    assert (code, "the same to the last bit\n" in said) == (0, True), said
