"""Flower's simulation on Ray, in a process of its own."""

import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from fl_bench.config.rules import require, require_seconds
from fl_bench.engines.base import SHORT, Connect, Engine
from fl_bench.errors import RunError, StorageError, note
from fl_bench.machine import memory, num_cpus

WORKER_BYTES = 2**28  # of memory, at least, that no other worker shares
LOG_BYTES = 2**24  # for the files of Ray itself


@dataclass
class Simulation(Engine):
    """As many workers as the resources allow, each a process, on this machine or on a Ray cluster, whose machines need
    share no disk.
    """

    round_timeout_s: float | None
    max_restarts: int
    ray: Mapping[str, Any]  # address of a cluster that is running, HOST:PORT or auto; None starts Ray here

    own_process = True
    mapped_bytes = 6e9

    def __post_init__(self) -> None:
        require("engine.ray", dict(self.ray), self.ray.keys() == {"address"}, "has the key address, and no other")
        address = self.ray["address"]
        require("engine.ray.address", address, isinstance(address, str | None), "must be HOST:PORT, auto or null")
        super().__post_init__()
        require_seconds("engine.round_timeout_s", self.round_timeout_s)
        require("engine.max_restarts", self.max_restarts, self.max_restarts >= 0, "must be 0 or more")
        cpus, most = self.resources["num_cpus"], max(1, memory() // WORKER_BYTES)
        fit = self.elsewhere or int(num_cpus() / cpus) <= most
        wish = f"would start {num_cpus() / cpus:.0f} workers, and this machine has memory for {most}"
        least = ceil(1000 * num_cpus() / most) / 1000
        require("engine.client_resources.num_cpus", cpus, fit, f"{wish}; {least} or more would do")

    @property
    def elsewhere(self) -> bool:
        return self.ray["address"] is not None

    @property
    def restarts(self) -> int:
        return self.max_restarts

    @property
    def patience_s(self) -> float | None:
        return self.round_timeout_s

    @contextmanager
    def workers(self, scratch: Path) -> Iterator[Connect]:
        if not self.elsewhere:
            prepare(scratch)
        from fl_bench.engines.cluster_grid import ClusterGrid  # torch, Ray and Flower
        from fl_bench.engines.ray_grid import RayGrid, start

        with start(ClusterGrid if self.elsewhere else RayGrid, self.resources, self.ray["address"]) as connect:
            yield connect

    def shrink(self) -> None:
        """Let each worker ask for twice as much, so that there is room for half as many."""
        most = float("inf") if self.elsewhere else num_cpus()
        cpus, gpus = self.resources["num_cpus"], self.resources["num_gpus"]
        self.resources["num_cpus"] = max(cpus, min(2 * cpus, most))
        if gpus != "auto" and 0 < gpus < 1:
            self.resources["num_gpus"] = min(2 * gpus, 1)
        note(f"out of memory: fewer workers, engine.client_resources={self.resources}")


def prepare(scratch: Path) -> None:
    """What a Ray of this run's own finds in the environment, from its import on. Raises where it could only hang."""
    folder = os.readlink(scratch / SHORT) if (scratch / SHORT).is_symlink() else str(scratch)
    if (free := shutil.disk_usage(folder).free) < LOG_BYTES:
        raise StorageError(f"{folder}: only {free} bytes are free, and Ray needs {LOG_BYTES}; let TMPDIR name another")
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=3).close()
    except OSError as error:
        raise RunError(
            f"engine=simulation: Ray cannot connect to 127.0.0.1 ({error.strerror}); "
            "`ip link set lo up` would help, and engine=inline needs no network"
        ) from error
    os.environ |= {
        "RAY_TMPDIR": folder,  # its logs and sockets go with the rest
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too this has all of its servers listen on 127.0.0.1 only
        "RAY_AUTH_MODE": "token",  # the other users of this machine could connect, and run what they like
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
