"""Whether a topology can do in a run what it is for."""

import numpy as np
from omegaconf import DictConfig

from fl_bench.build import build
from fl_bench.compression.base import FLOAT_BYTES, Codec
from fl_bench.config.rules import MASKS, at_sites
from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer
from fl_bench.network.schedule import Schedule
from fl_bench.topologies.base import Topology


def make_topology(cfg: DictConfig, trainer: Trainer) -> Topology:
    size = FLOAT_BYTES * trainer.layout.size
    return build(cfg.topology, Topology, seed=cfg.seed, weights=trainer.weighting.each, num_bytes=size)


def check_topology(cfg: DictConfig, trainer: Trainer, topology: Topology, schedule: Schedule, plain: bool) -> None:
    """Raise ConfigError for what only a star can do; `plain` says whether the strategy's server half is a mean."""
    channel, sizes = trainer.channel, trainer.partition.train_sizes
    empty = int(np.argmin(sizes))
    star_only = (
        (not plain or cfg.strategy.needs_each_client, "strategy: its server half is more than a plain mean"),
        (len(trainer.algorithm.extras) > 0, "strategy: its clients send more than a model"),
        (type(schedule) is not Schedule, "strategy: its server chooses whom to ask"),
        (trainer.rule.only_mean, "robust: it makes one update of all"),
        (cfg.secure_aggregation == MASKS, "secure_aggregation=masks: there is one sum of all"),
        (at_sites(cfg), "engine=deployment: there is one server"),
        (
            schedule.network.over_select > 1,
            f"network.over_select={schedule.network.over_select}: it is for one server to tell who is late",
        ),
    )
    served_only = (
        (type(channel.up) is not Codec or not channel.down.lossless, "compression: a server knows what clients have"),
        (sizes[empty] == 0, f"partition: client {empty} has nothing to train on, and would part its neighbours"),
    )
    for unfit, why in star_only:
        if unfit and type(topology) is not Topology:
            raise ConfigError(f"{why}; use another, or topology=star")
    for unfit, why in served_only:
        if unfit and not topology.has_server:
            raise ConfigError(f"{why}; use another, or topology=star or hierarchical")
