"""examples/flower-app runs under `flwr run`, in Flower's own simulation runtime, and writes what one process writes."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT, Launch, digests, environment, long

APP = ROOT / "examples" / "flower-app"
WORDS = ("task=mnist", "strategy=scaffold", "num_clients=4", "num_rounds=2", "figures=false")
NODES = "num-supernodes=2 client-resources-num-cpus=1 init-args-num-cpus=2"
SECONDS = 200


@long
def test_the_app_writes_what_one_process_writes(tmp_path: Path, launch: Launch) -> None:
    bin, there = Path(sys.executable).parent, environment(tmp_path)
    there |= {
        "FLWR_HOME": str(tmp_path), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "PATH": f"{bin}:{there['PATH']}",
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "100000000",
    }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    (tmp_path / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    link = subprocess.Popen(
        [bin / "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", port],
        cwd=tmp_path, env=there, stdout=(tmp_path / "link.log").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while socket.socket().connect_ex(("127.0.0.1", int(port))) and time.monotonic() < deadline:
            time.sleep(0.1)
        config = f'words="{" ".join(WORDS)}" folder="run"'
        words = ("run", str(APP), "here", "--stream", "-c", config, "--federation-config", NODES)
        ran = subprocess.run([bin / "flwr", *words], cwd=tmp_path, env=there, timeout=SECONDS, capture_output=True)
        said = ran.stdout.decode() + (tmp_path / "link.log").read_text()
        assert (tmp_path / "run" / "model.safetensors").exists(), said
        assert digests(tmp_path / "run") == digests(launch(*WORDS, "local.lr_horizon=2")), said
    finally:
        link.send_signal(signal.SIGTERM)
        link.wait(SECONDS)
