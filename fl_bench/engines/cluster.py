"""Starting Ray, or joining it: without torch and Flower, which only workers of some kinds need."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import ray
from ray.job_config import JobConfig

from fl_bench.errors import ConfigError, note
from fl_bench.machine import address_space, memory, num_cpus

MAPPED_BYTES = 5.4e9  # of address space, by a process with torch and Ray


class OwnPath(JobConfig):
    """Of workers that import what the command imports: Ray would let them look into the current folder first."""

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def connect(address: str | None, num_gpus: int | None = None) -> None:
    """Start Ray on this machine, or join a cluster; Ray counts the GPUs where it is not told."""
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "job_config": OwnPath()}
    if address is None:
        os.environ["PYTHONPATH"] = path  # workers inherit it
        options |= {"num_cpus": num_cpus(), "num_gpus": num_gpus, "include_dashboard": False}
        # "local": never join a cluster that happens to run on this machine.
        ray.init("local", **options, **_shared_memory())
        return
    try:
        if address != "auto":  # Ray itself would try for over a minute
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=3).close()
        variables = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        ray.init(address, runtime_env={"env_vars": variables}, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"engine.ray.address={address}: no Ray cluster at HOST:PORT or auto ({reason})") from error


def _shared_memory() -> dict[str, Any]:
    """Where Ray's shared memory lies and how large it is, on a machine that is not as Ray expects."""
    options: dict[str, Any] = {}
    if Path("/dev/shm").exists() and not os.access("/dev/shm", os.W_OK):
        options["_plasma_directory"] = os.environ["RAY_TMPDIR"]
        note(f"/dev/shm cannot be written: Ray's shared memory lies in {os.environ['RAY_TMPDIR']}")
    if (limit := address_space()) < float("inf"):  # Ray maps it twice; torch and Ray's threads have the rest
        options["object_store_memory"] = min(int(limit - MAPPED_BYTES) // 2, memory() * 3 // 10)
    return options
