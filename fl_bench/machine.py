"""Facts about this process, machine and installation."""

import ctypes
import hashlib
import os
import platform
import resource
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)
PACKAGES = ("fl-bench", "flwr", "ray", "torch", "torchvision", "transformers", "hydra-core", "numpy", "pandas")
TREES = ("xgboost", "xgboost-cpu")  # of which the extra trees installs one


def peak_memory_mb() -> int:
    """The most memory this process has had resident, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the next use (glibc).

    Otherwise it gives large pieces back, and the system clears each page anew at every use: a third of the time of a
    step of a model with 25 million parameters.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def oom_kills() -> int:
    """How many processes this system has killed for want of memory (Linux; elsewhere always 0)."""
    counters = Path("/proc/vmstat")
    lines = counters.read_text().splitlines() if counters.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def num_cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """The bytes of memory that this machine has, or that the control groups of this process allow it."""
    groups = Path("/proc/self/cgroup")
    lines = groups.read_text().splitlines() if groups.exists() else []
    own = next((Path("/sys/fs/cgroup", line[4:]) for line in lines if line.startswith("0::/")), Path("/sys/fs/cgroup"))
    files = [folder / "memory.max" for folder in (own, *own.parents)]
    limits = [file.read_text().strip() for file in files if file.exists()]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(int(limit) for limit in limits if limit != "max")])


def address_space() -> float:
    """The bytes of address space that this process may have (`ulimit -v`)."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def identity(path: Path) -> tuple[str, int, int]:
    """Which file or folder this is: equal for two processes only where both see the very same one, and on one machine
    (Linux). Between machines that share a disk it differs: what one has written the other may not see at once.
    """
    boot, found = Path("/proc/sys/kernel/random/boot_id"), path.stat()
    return boot.read_text() if boot.exists() else platform.node(), found.st_dev, found.st_ino


@cache
def package() -> tuple[str, str]:
    """What this package is, version and a digest of its code, and where."""
    here = Path(__file__).parent
    code = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(here.rglob("*.py"))))
    return f"{version('fl-bench')} {code.hexdigest()[:12]}", str(here)


def describe() -> dict[str, Any]:
    """What a reader needs to know to make a run again: versions, commit, hardware. Not `gpus`, which imports torch."""
    return {
        "versions": _versions(),
        "hardware": {"platform": platform.platform(), "processor": _processor(), "cpus": num_cpus()},
    } | _git()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
    for package in TREES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@cache
def _git() -> dict[str, Any]:
    """The commit of this checkout and whether it has changes; None for an installed package.

    Asked once: the process of a run is forked from one that knows it.
    """
    here, unknown = Path(__file__).parent.parent, {"git_commit": None, "git_dirty": None}
    if not (here / ".git").exists():
        return unknown
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return unknown
    return {"git_commit": commit.removesuffix("+"), "git_dirty": commit.endswith("+")}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def gpus() -> list[str]:
    import torch  # seconds

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
