"""The data of a run as the sites of a deployment have it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from fl_bench import rng
from fl_bench.build import build
from fl_bench.config.rules import AUTO_CLIENTS
from fl_bench.data.partition import UNSEEN, Partition
from fl_bench.deployment.shares import Held, Holding, share
from fl_bench.errors import ConfigError, note
from fl_bench.runs.prepare import prepare
from fl_bench.runs.scratch import scratch_folder
from fl_bench.tasks.base import Task

OF_ALL = {"partition": "fl_bench.data.partition.iid", "shift": "fl_bench.data.shift.none"}  # what --as-client takes


def share_out(cfg: DictConfig, folder: Path, sites: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Prepare a run's data, write to folder/<site> what each holds, and return whose clients those are.

    `sites` says which clients are each site's; where it says none, they go to the sites in order, in equal numbers or
    one more. Raises ConfigError where there are not such clients.
    """
    with scratch_folder() as scratch:
        source = scratch / "data"
        source.mkdir()
        prepare(cfg, build(cfg.task, Task), source)
        shared = _shared(sites, Held.open(source).num_clients)
        for site, clients in shared.items():
            share(source, folder / site, clients)
    return shared


def share_own(cfg: DictConfig, folder: Path, client: int) -> Holding:
    """Write to the new `folder` all rows of the data as those of one `client`, and return what it holds then.

    Rows stay in their order, and the last are held out, as `partition.holdout` says. Raises ConfigError where what the
    rows mean to a model would follow from them: others have other rows.
    """
    _refuse_what_needs_all(cfg, client)
    with scratch_folder() as scratch:
        source = scratch / "data"
        source.mkdir()
        rng.seed_torch(cfg.seed, "load")
        data = build(cfg.task, Task).load(cfg.data, source)
        if data.num_tests:
            note(f"{data.num_tests} rows are of a test set, and nobody's here")
        if not data.num_samples:
            raise ConfigError("data: has no rows that could be a client's")
        data.save(source)
        sizes = np.where(np.arange(cfg.num_clients) == client, data.num_samples, 0)
        starts = np.concatenate(([0], np.cumsum(sizes)))
        held = Partition(
            np.arange(data.num_samples), starts, starts[1:] - (sizes * cfg.partition.holdout).astype(np.int64)
        )
        seen = cfg.num_clients - round(cfg.num_clients * (cfg.partition.get("unseen") or 0))
        held.of_clients(np.arange(seen)).save(source)
        if seen < cfg.num_clients:
            held.of_clients(np.arange(seen, cfg.num_clients)).save(source, UNSEEN)
        share(source, folder, [client])
    return Held.open(folder).holdings()[client]


def _shared(sites: Mapping[str, Sequence[int]], num_clients: int) -> dict[str, list[int]]:
    """By site: its clients."""
    if not any(sites.values()):
        if len(sites) > num_clients:
            raise ConfigError(f"--sites: {len(sites)} are more than the run's {num_clients} clients")
        parts = np.array_split(np.arange(num_clients), len(sites))
        return {site: clients.tolist() for site, clients in zip(sites, parts, strict=True)}
    found: dict[int, str] = {}
    for site, clients in sites.items():
        for client in clients:
            if client >= num_clients:
                raise ConfigError(f"--sites {site}={client}: the run has clients 0 to {num_clients - 1}")
            if client in found:
                raise ConfigError(f"--sites {site}={client}: is a client of {found[client]}")
            found[client] = site
    if lacking := sorted({*range(num_clients)} - found.keys()):
        note(f"--sites: no site has {len(lacking)} of the {num_clients} clients; the first is {lacking[0]}")
    return {site: [*clients] for site, clients in sites.items()}


def _refuse_what_needs_all(cfg: DictConfig, client: int) -> None:
    """Raise ConfigError for what one client alone cannot know, or that its rows would not follow."""
    if cfg.num_clients == AUTO_CLIENTS:
        raise ConfigError("num_clients=auto: must be a number with --as-client, which does not see the others")
    if not 0 <= client < cfg.num_clients:
        raise ConfigError(f"--as-client {client}: must be from 0 to {cfg.num_clients - 1}, as num_clients says")
    if cfg.setting:
        raise ConfigError("setting=vertical: cannot be had with --as-client so far; leave --as-client out")
    for key, usual in OF_ALL.items():
        if cfg[key]._target_ != usual:
            raise ConfigError(f"{key}: has no effect with --as-client, whose rows are as they are; leave it out")
    if cfg.data.get("facts") is None:
        wish = "must name a file that says what is known from all rows only: classes, scales of columns, vocabulary"
        known = (
            wish if "facts" in cfg.data else "is of data=csv, parquet and folder, which alone can be one client's own"
        )
        raise ConfigError(f"data.facts: with --as-client, {known}")
