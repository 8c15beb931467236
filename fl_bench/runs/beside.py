"""Clients that send arrays beside the vector and no updates of it: what there is nothing to make of."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.compression.base import Codec
from fl_bench.config.rules import at_sites
from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer

Only = Mapping[str, tuple[Any, str]]  # keys that must have a value, and why

NO_UPDATES = "clients send adapters of ranks of their own, and no updates of one vector"
NOT_PLANNED = "the clock plans with bytes that are known before a run, and the ranks of clients are not"
ONLY: Only = {
    "attack._target_": ("fl_bench.attacks.base.Attack", NO_UPDATES),
    "robust._target_": ("fl_bench.robust.base.Rule", NO_UPDATES),
    "privacy._target_": ("fl_bench.privacy.base.Protection", NO_UPDATES),
    "secure_aggregation": ("none", NO_UPDATES),
    "ledger.signed": (False, NO_UPDATES),
    "network.bytes_per_second_up": (math.inf, NOT_PLANNED),
    "network.bytes_per_second_down": (math.inf, NOT_PLANNED),
    "network.traces": (None, NOT_PLANNED),
}


def check_adapters(cfg: DictConfig, trainer: Trainer) -> None:
    """Raise ConfigError where a part works on updates of the vector, and adapters travel beside it."""
    if not trainer.algorithm.only_beside:
        return
    name = type(trainer.algorithm).__name__
    if at_sites(cfg):
        raise ConfigError(f"strategy: {name} cannot be had with engine=deployment so far; use simulation or inline")
    check_only(cfg, ONLY, "this strategy")
    check_no_memory((trainer.channel.up, trainer.channel.down))


def check_only(cfg: DictConfig, only: Only, given: str) -> None:
    """Raise ConfigError where a key has another value than the only one that goes with what is `given`."""
    for key, (value, why) in only.items():
        if (has := OmegaConf.select(cfg, key)) != value:
            group, _, target = key.rpartition(".")
            wrong = f"{group}: cannot be had" if target == "_target_" else f"{key}={_word(has)}: must be {_word(value)}"
            raise ConfigError(f"{wrong} with {given}: {why}")


def check_no_memory(codecs: Sequence[Codec]) -> None:
    """Raise ConfigError where one of the codecs of the ways up and down needs updates."""
    for key, codec in zip(("compression", "compression/down"), codecs, strict=True):
        if codec.feedback or type(codec).matters is not Codec.matters:
            wish = "follows a client's update over the rounds, and here are none; use fp16, quantize or feedback=false"
            raise ConfigError(f"{key}: {type(codec).__name__} {wish}")


def _word(value: Any) -> str:
    """As on the command line."""
    return json.dumps(value).strip('"')
