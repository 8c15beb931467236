"""What a config may have beside model=trees, which is no vector: it has no mean, and its length is not known before."""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

TREES = "fl_bench.models.trees.forest"

# Groups whose options work on vectors; where they are in the config, and what the option none has there.
PARTS = {
    "attack": ("attack", "fl_bench.attacks.base.Attack"),
    "robust": ("robust", "fl_bench.robust.base.Rule"),
    "privacy": ("privacy", "fl_bench.privacy.base.Protection"),
    "compression": ("compression.up", "fl_bench.compression.base.Codec"),
    "compression/down": ("compression.down", "fl_bench.compression.base.Codec"),
}
# Keys that would have no meaning or no effect, and their only value.
VALUES: dict[str, Any] = {
    "secure_aggregation": "none",
    "ledger.signed": False,
    "weighting": "examples",
    "evaluate.adapt_steps": 0,
    "task.label_smoothing": 0.0,
    "task.class_weights": None,
    "engine.client_resources.num_gpus": 0,
    "network.bytes_per_second_up": math.inf,
    "network.bytes_per_second_down": math.inf,
    "network.traces": None,
}
GRADIENT = (  # keys of `local` for steps along a gradient; a task's yaml sets some
    "batch_size", "lr", "lr_schedule", "lr_warmup", "optimizer.name", "optimizer.momentum", "optimizer.weight_decay",
    "decay", "clip_norm", "accumulate", "precision",
)  # fmt: skip


def are_grown(cfg: DictConfig) -> bool:
    """Whether the model is trees."""
    return bool(OmegaConf.select(cfg, "model._target_") == TREES)


def _only(key: str, only: Any, wish: str) -> tuple[str, Callable[[Any, DictConfig], bool], str]:
    return key, lambda value, cfg: value in (only, None) or not are_grown(cfg), wish


RULES = [
    _only("strategy.needs_each_client", True, "model=trees has no mean; use strategy=fedxgb_bagging or fedxgb_cyclic"),
    *(
        _only(f"{key}._target_", nothing, f"works on vectors of numbers, and model=trees is none; use {group}=none")
        for group, (key, nothing) in PARTS.items()
    ),
    *(_only(key, only, f"must be {'null' if only is None else only} with model=trees") for key, only in VALUES.items()),
]
