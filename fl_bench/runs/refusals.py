"""Parts that do not go with another, each refused in a line before a run."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.compression.base import Codec
from fl_bench.config.rules import at_sites
from fl_bench.errors import ConfigError

Only = Mapping[str, tuple[Any, str]]  # keys that must have a value, and why


def of_updates(why: str, instead: str = "") -> Only:
    """The keys of what is made of updates of whole models, where there are none; `instead` is a hint for privacy."""
    return {
        "attack._target_": ("fl_bench.attacks.base.Attack", why),
        "robust._target_": ("fl_bench.robust.base.Rule", why),
        "privacy._target_": ("fl_bench.privacy.base.Protection", f"{why}{instead}"),
        "secure_aggregation": ("none", why),
    }


def refuse_sites(cfg: DictConfig, what: str) -> None:
    """Raise ConfigError where clients are at real sites, and `what` is for those of a simulation."""
    if at_sites(cfg):
        raise ConfigError(f"{what} cannot be had with engine=deployment so far; use simulation or inline")


def require_only(cfg: DictConfig, only: Only, word: str) -> None:
    """Raise ConfigError where a key has another value than it must have together with `word`."""
    for key, (value, why) in only.items():
        if (has := OmegaConf.select(cfg, key)) != value:
            group, _, target = key.rpartition(".")
            given = f"{group}: cannot be had" if target == "_target_" else f"{key}={_word(has)}: must be {_word(value)}"
            raise ConfigError(f"{given} with {word}: {why}")


def require_forgetful(codecs: Sequence[Codec]) -> None:
    """Raise ConfigError where a codec, of the ways up and down, is of no use for arrays beside a model."""
    for key, codec in zip(("compression", "compression/down"), codecs, strict=True):
        if codec.feedback or type(codec).matters is not Codec.matters:
            wish = "follows a client's update over the rounds, and here are none; use fp16, quantize or feedback=false"
            raise ConfigError(f"{key}: {type(codec).__name__} {wish}")


def _word(value: Any) -> str:
    """As on the command line."""
    return json.dumps(value).strip('"')
