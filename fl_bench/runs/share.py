"""The data of a run as the sites of a deployment have it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from fl_bench.build import build
from fl_bench.deployment.shares import Held, share
from fl_bench.errors import ConfigError
from fl_bench.runs.prepare import prepare
from fl_bench.runs.scratch import scratch_folder
from fl_bench.tasks.base import Task


def share_out(cfg: DictConfig, folder: Path, sites: Sequence[str]) -> dict[str, list[int]]:
    """Prepare a run's data, write to folder/<site> what each holds, and return whose clients those are.

    Clients go to the sites in order, in equal numbers or one more.
    """
    with scratch_folder() as scratch:
        source = scratch / "data"
        source.mkdir()
        prepare(cfg, build(cfg.task, Task), source)
        num_clients = Held.open(source).num_clients
        if len(sites) > num_clients:
            raise ConfigError(f"--sites: {len(sites)} are more than the run's {num_clients} clients")
        shared = dict(zip(sites, np.array_split(np.arange(num_clients), len(sites)), strict=True))
        for site, clients in shared.items():
            share(source, folder / site, clients.tolist())
    return {site: clients.tolist() for site, clients in shared.items()}
