"""Sites that lie, are slow, or have no room; strangers at the port; a link that forgets. Real processes over TLS."""

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import odd
import pytest
from conftest import FORKS, digests, environment, fl_bench, leftovers, long, table
from test_deployment import NAMES, PATIENCE_SECONDS, Deployment, deployed, whole  # noqa: F401  (fixtures)

from fl_bench.deployment import keys, runtime_api

LIES = {2: odd.NAN, 3: odd.SHAPE, 4: odd.OVERSIZED, 5: odd.STRANGER, 6: odd.TWICE, 7: odd.SLOW}
REFUSALS = (
    "a model is not of finite numbers",
    "a model has another shape",
    "its signature is not by the key that is known here",
    "it has not answered in 10 s",
)
ROUNDS, FULL_ROUND = 9, 8


@pytest.fixture
def empty(tmp_path: Path, whole: Path) -> Iterator[Deployment]:  # noqa: F811
    """Keys and rows for a link and three sites, none of which is there yet."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    found = Deployment(tmp_path)
    try:
        yield found
    finally:
        found.close()
    assert leftovers(tmp_path) == []


def start_odd(of: Deployment, name: str, oddities: dict[int, int]) -> None:
    """As `start_site`, but it does what no site should."""
    words: tuple[str, ...] = ("site", "--link", of.link, "--name", name, "--certs", f"keys/sites/{name}")
    words += ("--data", f"shares/{name}", "--root", f"root/{name}")
    outputs = [of.folder / f"{name}.{kind}" for kind in ("out", "err")]
    for file in outputs:
        file.write_text("")
    arguments = (words, of.folder, environment(of.folder), outputs, oddities)
    child = FORKS.Process(target=odd.command, args=arguments)
    child.start()
    of.processes[name] = child


def ended(of: Deployment, name: str) -> tuple[int | None, str]:
    """The exit code of a process, when it has ended by itself, and what it said, which is no traceback."""
    process = of.processes.pop(name)
    process.join(PATIENCE_SECONDS)
    said = of.said(name)
    assert "Traceback" not in said, said
    return process.exitcode, said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[None]:
    """A disk of its own for what site3 keeps."""
    place = tmp_path / "root" / "site3"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "fl-bench-test", place], check=False).returncode:
        pytest.skip("mounting a small disk needs more rights than these")
    yield
    subprocess.run(["umount", "--lazy", place], check=True)


@long
@pytest.mark.timeout(600)
def test_what_a_site_must_not_do_costs_its_own_clients_a_round(empty: Deployment, small_disk: None) -> None:
    empty.start_link()
    empty.start_site("site1")
    start_odd(empty, "site2", LIES)
    start_odd(empty, "site3", {odd.ALWAYS: odd.VERSION})
    empty.wait("link", "link: listening")
    keys.make(empty.folder / "keys", ["stranger"])  # of the same authority, but the link has not been told
    shutil.copytree(empty.folder / "shares" / "site3", empty.folder / "shares" / "stranger")
    empty.start_site("stranger")

    empty.start("driver", *empty.words("run"))
    code, said = ended(empty, "driver")
    assert code == 2
    assert "site3: its fl-bench is 9.9.9 of somebody" in said

    assert empty.kill("site3", signal.SIGTERM) == 130
    start_odd(empty, "site3", {FULL_ROUND: odd.FULL})
    empty.wait("site3", "site3: at")
    shutil.rmtree(empty.folder / "run", ignore_errors=True)
    empty.start("driver", *empty.words("run", f"num_rounds={ROUNDS}", "engine.round_timeout_s=10"))
    empty.wait("driver", "round 1/")
    for bytes_at_the_port in (b"GET / HTTP/1.1\r\nHost: link\r\n\r\n", os.urandom(10_000), b""):
        with (
            socket.create_connection(("127.0.0.1", int(empty.link.rpartition(":")[2]))) as stranger,
            suppress(ConnectionError),
        ):
            stranger.sendall(bytes_at_the_port)
            stranger.settimeout(1)
            with suppress(TimeoutError):
                assert b"200" not in stranger.recv(100)
    code, said = ended(empty, "driver")
    assert code == 0, said
    for why in REFUSALS:
        assert f"site2 is left out: {why}" in said or f"site2 is left out: its answer is refused: {why}" in said
    assert said.count("is left out") == 6, said
    assert "site3 is left out" in said
    assert "No space left on device" in said
    rows = table(empty.folder / "run", "clients")
    dropped = {(int(row["round"]), int(row["client"])) for row in rows if row["status"] == "dropped"}
    assert dropped == {(2, 2), (3, 2), (4, 2), (5, 2), (7, 2), (FULL_ROUND, 3)}
    code, said = ended(empty, "stranger")
    assert code == 1
    assert f"--link {empty.link}: does not let this site in" in said


@long
def test_a_link_that_forgets_ends_the_run_in_one_line_and_a_resumed_one_goes_on(empty: Deployment) -> None:
    port = empty.link.rpartition(":")[2]
    link = ("link", "--certs", "keys/link", "--port", port)  # without a database
    empty.start("link", *link)
    for name in NAMES:
        empty.start_site(name)
    empty.wait("link", "link: listening")
    ca = keys.of_driver(empty.folder / "keys" / "driver").ca
    with runtime_api._control(empty.link, ca) as control:
        runtime_api.begin(control)  # by a driver that was killed before it was the server of its run
    empty.start("driver", *empty.words("run"))
    empty.wait("driver", "round 1/3")
    empty.kill("link")
    empty.start("link", *link)
    code, said = ended(empty, "driver")
    assert code == 1
    assert f"engine.link={empty.link}: does not know this run any more" in said
    assert f"to go on: fl-bench resume {empty.folder / 'run'}" in said
    empty.start("driver", "resume", "run")
    code, said = ended(empty, "driver")
    assert code == 0, said
    assert empty.digests("run") == digests(empty.folder / "inline")


@long
def test_ctrl_c_stops_a_driver_whose_link_is_away(deployed: Deployment) -> None:  # noqa: F811
    deployed.start("driver", *deployed.words("run"))
    deployed.wait("driver", "round 1/3")
    deployed.kill("link")
    deployed.wait("driver", "does not answer; trying until it does")
    assert deployed.kill("driver", signal.SIGINT) == 130
    assert "stopped by Ctrl-C" in deployed.said("driver")
    for name in NAMES:
        assert deployed.kill(name, signal.SIGTERM) == 130
    again = fl_bench("resume", "run", cwd=deployed.folder)
    assert again.returncode == 1
    assert f"fl-bench: engine.link={deployed.link}: cannot be reached" in again.stderr.splitlines()[-1]


@long
def test_a_server_without_tls_is_no_link(empty: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        empty.link = f"127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            with suppress(OSError):  # it is closed when the test is over
                while True:
                    with server.accept()[0] as visitor:
                        visitor.recv(1000)
                        visitor.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        empty.start_site("site1")
        code, said = ended(empty, "site1")
        assert code == 2
        assert f"--link {empty.link}: [SSL" in said
        empty.start("driver", *empty.words("run"))
        code, said = ended(empty, "driver")
        assert code == 2
        assert f"engine.link={empty.link}: cannot be reached: [SSL" in said
        assert list((empty.folder / "run").iterdir()) == []
        server.shutdown(socket.SHUT_RDWR)
