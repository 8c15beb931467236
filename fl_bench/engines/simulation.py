"""Flower's simulation on Ray, in a process of its own."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_bench.config.rules import require, require_seconds
from fl_bench.engines.base import Connect, Engine
from fl_bench.errors import note
from fl_bench.machine import num_cpus


@dataclass
class Simulation(Engine):
    """As many workers as the resources allow, each a process, on this machine or on a Ray cluster."""

    round_timeout_s: float | None
    max_restarts: int
    ray: Mapping[str, Any]  # address of a cluster that is running, HOST:PORT or auto; None starts Ray here

    own_process = True

    def __post_init__(self) -> None:
        require("engine.ray", dict(self.ray), self.ray.keys() == {"address"}, "has the key address, and no other")
        address = self.ray["address"]
        require("engine.ray.address", address, isinstance(address, str | None), "must be HOST:PORT, auto or null")
        super().__post_init__()
        require_seconds("engine.round_timeout_s", self.round_timeout_s)
        require("engine.max_restarts", self.max_restarts, self.max_restarts >= 0, "must be 0 or more")

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
        from fl_bench.engines.ray_grid import start  # torch, Ray and Flower

        os.environ["RAY_TMPDIR"] = str(scratch)  # its logs and sockets go with the rest
        with start(self.resources, self.ray["address"]) as connect:
            yield connect

    def shrink(self) -> None:
        """Let each worker ask for twice as much, so that there is room for half as many."""
        most = float("inf") if self.elsewhere else num_cpus()
        cpus, gpus = self.resources["num_cpus"], self.resources["num_gpus"]
        self.resources["num_cpus"] = max(cpus, min(2 * cpus, most))
        if gpus != "auto" and 0 < gpus < 1:
            self.resources["num_gpus"] = min(2 * gpus, 1)
        note(f"out of memory: fewer workers, engine.client_resources={self.resources}")
