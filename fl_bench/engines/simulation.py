"""Flower's simulation on Ray: the only place that imports either's simulation runtime."""

import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from omegaconf import DictConfig

from fl_bench.errors import ConfigError
from fl_bench.federation.client import app
from fl_bench.machine import num_cpus

Server = Callable[[Grid, int, Callable[[], bool]], None]


def run(engine: DictConfig, max_messages: int, server: Server) -> None:
    """Call `server(grid, num_nodes, interrupted)` in a ServerApp beside as many workers as the resources allow.

    Raises what `server` raises. Ctrl-C and SIGTERM make `interrupted()` true, so that the server can finish its files.
    """
    resources = {name: float(value) for name, value in engine.client_resources.items()}
    init_args = _ray_arguments(engine)
    num_workers = _count_workers(resources, init_args)
    # With packing, one message a worker; without, one a client, and Flower takes one message a node at a time.
    num_nodes = num_workers if engine.packing else max(num_workers, max_messages)

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        server(grid, num_nodes, stop.is_set)

    import flwr.simulation

    flwr.simulation.run_simulation(
        server_app=server_app,
        client_app=app,
        num_supernodes=num_nodes,
        backend_config={"client_resources": resources, "init_args": init_args},  # type: ignore[dict-item]
    )


def _ray_arguments(engine: DictConfig) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if engine.ray.address:
        return quiet | {"address": engine.ray.address}
    # "local": never join a cluster that happens to run on this machine.
    return quiet | {"address": "local", "num_cpus": num_cpus(), "num_gpus": torch.cuda.device_count()}


def _count_workers(resources: dict[str, float], init_args: dict[str, Any]) -> int:
    """How many workers fit, by the rule of Flower's actor pool: on this machine, or on the nodes of a cluster."""
    if "num_cpus" in init_args:
        machines = [{"CPU": init_args["num_cpus"], "GPU": init_args["num_gpus"]}]
    else:
        import ray

        address = init_args["address"]
        try:
            if address != "auto":  # Ray itself would try for over a minute
                host, port = address.rsplit(":", 1)
                socket.create_connection((host, int(port)), timeout=3).close()
            ray.init(**init_args)  # Flower uses the connection that is there
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"engine.ray.address={address}: no Ray cluster at HOST:PORT or auto ({reason})"
            ) from error
        machines = [node["Resources"] for node in ray.nodes()]
    cpus, gpus = resources["num_cpus"], resources["num_gpus"]
    return sum(
        min([int(machine.get("CPU", 0) / cpus)] + ([int(machine.get("GPU", 0) / gpus)] if gpus else []))
        for machine in machines
    )
