"""A Ray cluster whose machines share no disk: two nodes, each with processes, a /tmp and a home of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import COMMAND, ROOT, digests, forked, long

from fl_bench.machine import identity
from fl_bench.storage.files import write
from fl_bench.storage.states import ClientStates

RAY = str(Path(sys.executable).with_name("ray"))
ALONE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
STORE_BYTES = 80_000_000  # of Ray's shared memory, the least that it takes
WORDS = (
    "task=cifar", "data=synthetic", "data.num_samples=300", "figures=false", "strategy=scaffold", "compression=topk",
    "network=flaky", "clients_per_round=6", "partition=pathological", "evaluate.clients=true", "local.steps=2",
    "num_rounds=16", "hydra.run.dir=run",
)  # fmt: skip
allowed = subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0
apart = pytest.mark.skipif(not allowed, reason="unshare --mount --pid is not allowed here")


def test_states_travel_as_the_files_that_they_are(tmp_path: Path) -> None:
    here, there = (ClientStates(tmp_path / name, "abc") for name in ("here", "there"))
    for client, round in ((3, 1), (3, 2), (7, 2)):
        (here.folder / str(client)).mkdir(parents=True, exist_ok=True)
        write(here.folder / str(client) / f"{round}.safetensors", bytes([client, round]))
    files = here.pack([3, 5, 7], before=2)
    assert {name: bytes(file) for name, file in files.items()} == {"3/1": b"\3\1"}  # 5 and 7 have kept nothing by then
    there.unpack(here.pack([3, 7], before=3), write)
    found = {str(file.relative_to(there.folder)): file.read_bytes() for file in there.folder.rglob("*.*")}
    assert found == {"3/2.safetensors": b"\3\2", "7/2.safetensors": b"\7\2"}


def test_a_folder_is_itself_by_whatever_name_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert identity(tmp_path / "a") == identity(tmp_path / "link") != identity(tmp_path / "b")


class Node:
    """A node of a Ray cluster, in namespaces of its own: its /tmp is `folder`. What hides others goes there too."""

    def __init__(self, folder: Path, *words: str, hidden: Path | None = None) -> None:
        self.folder = folder
        (folder / "home").mkdir(parents=True, exist_ok=True)
        options = ("--num-cpus=1", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats")
        hide = f"mount -t tmpfs none {hidden} && " if hidden else ""
        script = f'{hide}mount --bind "$0" /tmp && cd /tmp && exec "$@"'
        command = [*ALONE, "sh", "-c", script, str(folder), RAY, "start", *words, *options, "--block"]
        with (folder / "ray.txt").open("w") as output:
            self.process = subprocess.Popen(
                command, env=environment(), stdout=output, stderr=output, start_new_session=True
            )
        wait_for("Ray runtime started", folder / "ray.txt")

    def kill(self) -> None:
        """End all its processes at once, as when a machine goes down."""
        self.process.kill()
        self.process.wait()

    def cells(self) -> list[int]:
        """The processes that run cells here."""
        found, here = [], os.readlink(f"/proc/{child(self.process.pid)}/ns/pid")
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                if (entry / "cmdline").read_bytes().startswith(b"ray::_run\0"):
                    found += [int(entry.name)] * (os.readlink(entry / "ns" / "pid") == here)
        return found

    def left(self) -> set[str]:
        """What is in its /tmp beside Ray's and torch's own."""
        return {file.name for file in self.folder.iterdir()} - {"home", "ray", "ray.txt", "torchinductor_root"}


class Cluster:
    """Two nodes with a worker each; commands are given on the first."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = f"127.0.0.1:{server.getsockname()[1]}"
        port = self.address.partition(":")[2]
        words = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false")
        self.first = Node(folder / "first", *words)
        self.second = self.start_second()

    def start_second(self, hidden: Path | None = None) -> Node:
        words = (f"--address={self.address}", "--node-ip-address=127.0.0.2")
        return Node(self.first.folder.with_name("second"), *words, hidden=hidden)

    @property
    def run(self) -> Path:
        return self.first.folder / "run"

    @property
    def said(self) -> str:
        return (self.first.folder / "output.txt").read_text()

    def begin(self, *words: str) -> "subprocess.Popen[str]":
        enter = ["nsenter", f"--target={child(self.first.process.pid)}", "--mount", "--pid"]
        where = [*enter, "sh", "-c", 'cd /tmp && exec "$0" "$@"']
        engine = (*["engine=simulation"] * ("-m" not in words), f"engine.ray.address={self.address}")
        with (self.first.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [*where, COMMAND, *words, *engine], env=environment(), text=True, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def file_of_a_second_cell(self, name: str) -> Path:
        """A file of a cell that the second machine runs, in a temporary folder, since it does not see the sweep's; when
        it is there. Until then the first's cells stand still: else it may have run all before the second is ready.
        """
        deadline, held = time.monotonic() + 100, set[int]()
        while not (found := list(self.second.folder.glob(f"fl-bench-*/run/{name}"))):
            assert time.monotonic() < deadline, self.said
            for process in set(self.first.cells()) - held:
                os.kill(process, signal.SIGSTOP)
                held.add(process)
            time.sleep(0.01)
        for process in held:
            os.kill(process, signal.SIGCONT)
        return found[0]

    def finish(self, *words: str) -> None:
        assert self.begin(*words).wait(timeout=200) == 0, self.said


def environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not value.startswith(tempfile.gettempdir())}  # torch's
    return ours | {"HOME": "/tmp/home", "TMPDIR": "/tmp", "PYTHONPATH": f"{ROOT}{os.pathsep}/tmp"}


def child(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])


def wait_for(text: str, file: Path) -> None:
    deadline = time.monotonic() + 100
    while not (file.exists() and text in file.read_text()):
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.second.kill()
    made.first.kill()


@pytest.fixture
def cluster(nodes: Cluster) -> Cluster:
    """Without the run of the test before."""
    subprocess.run(["rm", "-rf", nodes.run], check=True)
    return nodes


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inline")
    result = forked(*WORDS, "engine=inline", cwd=folder)
    assert result.returncode == 0, result.stderr
    return digests(folder / "run")


@long
@apart
def test_what_clients_keep_comes_and_goes_with_the_messages(cluster: Cluster, expected: dict[str, str]) -> None:
    cluster.finish(*WORDS)
    assert digests(cluster.run) == expected
    assert any(name.startswith("state/") for name in expected)
    assert not cluster.second.left()
    assert "run" in cluster.first.left()


@long
@apart
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_interrupted_goes_on(cluster: Cluster, expected: dict[str, str], number: int) -> None:
    process = cluster.begin(*WORDS)
    wait_for("\n7,", cluster.run / "metrics.csv")
    os.kill(child(process.pid), number)
    process.wait(timeout=30)
    cluster.finish("resume", "run")
    assert digests(cluster.run) == expected
    assert not cluster.second.left()


@long
@apart
def test_a_machine_that_goes_down_is_done_without(cluster: Cluster, expected: dict[str, str]) -> None:
    process = cluster.begin(*WORDS)
    wait_for("\n5,", cluster.run / "metrics.csv")
    cluster.second.kill()
    try:
        assert process.wait(timeout=100) == 0, cluster.said
        assert cluster.said.count("starting again from the last checkpoint") == 1
        assert digests(cluster.run) == expected
        assert any(name.startswith("fl-bench-") for name in cluster.second.left())
    finally:
        cluster.second = cluster.start_second()
    cluster.finish(*WORDS, "hydra.run.dir=run/again", "num_rounds=1")
    assert not cluster.second.left()  # neither that of the run which the machine has not survived


SWEEP = (
    "-m", *(word for word in WORDS if not word.startswith(("strategy=", "num_rounds=", "hydra."))), "seed=0,1",
    "strategy=fedavg,scaffold", "hydra.sweep.dir=run", "local.lr_schedule=cosine", "local.lr_horizon=16",
)  # fmt: skip


def cells(sweep: Path) -> dict[str, dict[str, str]]:
    return {file.parent.name: digests(file.parent) for file in sweep.glob("*/run.json")}


@pytest.fixture(scope="module")
def sweep_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("sweep")
    result = forked(*SWEEP, "num_rounds=8", "engine=inline", "sweep.parallel=1", cwd=folder)
    assert result.returncode == 0, result.stderr
    return cells(folder / "run")


@long
@apart
def test_cells_run_on_both_machines_and_their_files_come_and_go(
    cluster: Cluster, sweep_alone: dict[str, dict[str, str]]
) -> None:
    for words in (("num_rounds=4",), ("num_rounds=8", "resume=true")):
        process = cluster.begin(*SWEEP, *words, "sweep.parallel=2")
        cluster.file_of_a_second_cell("run.json")
        assert process.wait(timeout=200) == 0, cluster.said
    found = cells(cluster.run)
    assert len(found) == 4
    assert found == sweep_alone
    assert {file.name for file in cluster.run.glob("*/checkpoint/*")} == {"7.safetensors", "8.safetensors"}
    assert (cluster.run / "report.html").exists()
    assert not cluster.second.left()


@long
@apart
def test_the_cell_of_a_machine_that_goes_down_begins_again_once(
    cluster: Cluster, sweep_alone: dict[str, dict[str, str]]
) -> None:
    process = cluster.begin(*SWEEP, "num_rounds=8", "sweep.parallel=2")
    wait_for("\n3,", cluster.file_of_a_second_cell("metrics.csv"))
    cluster.second.kill()
    try:
        assert process.wait(timeout=200) == 0, cluster.said
        assert cluster.said.count("its worker has died") == 1
        assert cells(cluster.run) == sweep_alone
    finally:
        cluster.second = cluster.start_second()
    cluster.finish(*WORDS, "hydra.run.dir=run/again", "num_rounds=1")
    assert not cluster.second.left()


@long
@apart
def test_what_a_machine_does_not_have_is_said(cluster: Cluster) -> None:
    options = cluster.first.folder / "options" / "strategy"
    options.mkdir(parents=True)
    (cluster.first.folder / "mine.py").write_text("from fl_bench.strategies.base import LocalAlgorithm as Half\n")
    (options / "mine.yaml").write_text(
        "# mine\nserver: {_target_: flwr.serverapp.strategy.FedAvg}\nclient: {_target_: mine.Half}\n"
    )
    words = ("--config-dir", "/tmp/options", "strategy=mine", "num_rounds=1", "figures=false", "hydra.run.dir=run")
    assert cluster.begin(*words).wait(timeout=100) == 1
    last = cluster.said.splitlines()[-1]
    assert "strategy.client._target_=mine.Half" in last
    assert "No module named 'mine'" in last
