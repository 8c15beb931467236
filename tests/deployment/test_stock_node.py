"""Flower's own SuperNode beside sites of ours in one run, over a real link with TLS and keys."""

import shutil
import signal
import socket
import sys
from pathlib import Path

import forks
from conftest import FORKS, digests, environment, long
from test_deployment import NAMES, PATIENCE_SECONDS, Deployment, whole  # noqa: F401

STOCK = NAMES[1]


def start_stock(deployed: Deployment) -> None:
    """As docs/deployment.md has it; the port is for its own processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    site = f'name="{STOCK}" certs="keys/sites/{STOCK}" data="shares/{STOCK}" root="root/{STOCK}"'
    words = ["flower-supernode", "--superlink", deployed.link, "--port", str(port), "--node-config", site]
    words += ["--root-certificates", f"keys/sites/{STOCK}/ca.crt"]
    words += ["--auth-supernode-private-key", f"keys/sites/{STOCK}/node.key"]
    home = {"FLWR_HOME": str(deployed.folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    there = environment(deployed.folder)
    there |= home | {"PATH": f"{Path(sys.executable).parent}:{there['PATH']}"}  # it starts programs of its own
    outputs = [deployed.folder / f"{STOCK}.{kind}" for kind in ("out", "err")]
    deployed.processes[STOCK] = FORKS.Process(target=forks.program, args=(words, deployed.folder, there, outputs))
    deployed.processes[STOCK].start()


@long
def test_a_stock_supernode_takes_part_also_when_it_is_started_again(tmp_path: Path, whole: Path) -> None:  # noqa: F811
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    deployed = Deployment(tmp_path)
    try:
        deployed.start_link()
        deployed.wait("link", "link: listening")
        for name in NAMES:
            start_stock(deployed) if name == STOCK else deployed.start_site(name)
        deployed.start("driver", *deployed.words("run"))
        deployed.wait("driver", "round 1/3")
        assert deployed.kill(STOCK, signal.SIGTERM) == 0
        start_stock(deployed)  # which must be greeted again
        deployed.processes["driver"].join(PATIENCE_SECONDS)
        assert deployed.processes["driver"].exitcode == 0, deployed.said("driver") + deployed.said(STOCK)
        assert deployed.digests("run") == digests(deployed.folder / "inline")
        assert deployed.kill(STOCK, signal.SIGTERM) == 0
    finally:
        deployed.close()
