"""Whether a model that is no vector fits the parts of a run, most of which are made for vectors."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.attacks.base import Attack
from fl_bench.build import find_target
from fl_bench.compression.base import Codec
from fl_bench.config.rules import at_sites, require
from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer
from fl_bench.models.opaque import Opaque
from fl_bench.privacy.base import Protection
from fl_bench.robust.base import Rule

# Groups whose options work on vectors, all but the one that does nothing.
PARTS = {"attack": Attack, "robust": Rule, "privacy": Protection, "compression.up": Codec, "compression.down": Codec}
# Keys that would have no effect or no meaning, and their only value.
VALUES: dict[str, Any] = {
    "secure_aggregation": "none",
    "weighting": "examples",
    "local.steps": None,
    "evaluate.adapt_steps": 0,
    "task.label_smoothing": 0.0,
    "task.class_weights": None,
    "engine.client_resources.num_gpus": 0,
    "network.bytes_per_second_up": math.inf,  # how long a model is, is known once it has been made
    "network.bytes_per_second_down": math.inf,
    "network.traces": None,
}


def check_opaque(cfg: DictConfig, trainer: Trainer) -> None:
    """Raise ConfigError where a model of trees has another's strategy, or a part of the run cannot work on it."""
    opaque = isinstance(trainer.flat.model, Opaque)
    if opaque and not trainer.algorithm.opaque:
        raise ConfigError("model=trees: has no mean; use strategy=fedxgb_bagging or fedxgb_cyclic")
    if trainer.algorithm.opaque and not opaque:
        raise ConfigError("strategy: grows trees, and this model has none; use model=trees")
    if not opaque:
        return
    for group, nothing in PARTS.items():
        if find_target(OmegaConf.select(cfg, group)) is not nothing:
            name = group.removesuffix(".up").replace(".", "/")
            raise ConfigError(f"{name}: works on vectors of numbers, and model=trees is none; use {name}=none")
    if at_sites(cfg):
        raise ConfigError("engine=deployment: sites exchange vectors of numbers only, and model=trees is none")
    for key, only in VALUES.items():
        value = OmegaConf.select(cfg, key)
        require(key, value, value in (only, None), f"must be {'null' if only is None else only} with model=trees")
