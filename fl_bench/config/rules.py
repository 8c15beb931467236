"""What values a config may have, as far as that needs neither data nor torch."""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.config.changes import flat
from fl_bench.config.schema import Config
from fl_bench.config.suggest import suggest
from fl_bench.errors import ConfigError

FAILURES = ("skip", "retry", "abort")

Rule = tuple[str, Callable[[Any, DictConfig], bool], str]


def _at_least(key: str, low: int) -> Rule:
    return key, lambda value, _: value >= low, f"must be {low} or more"


RULES: list[Rule] = [
    ("seed", lambda value, _: 0 <= value < 2**63, "must be between 0 and 2**63 - 1"),
    _at_least("num_rounds", 1),
    _at_least("num_clients", 1),
    _at_least("clients_per_round", 1),
    (
        "clients_per_round",
        lambda value, cfg: value <= cfg.num_clients,
        "must not be more than num_clients={num_clients}",
    ),
    _at_least("min_clients", 1),
    ("local.steps", lambda value, _: value is None or value >= 1, "must be 1 or more, or null to count in epochs"),
    _at_least("local.epochs", 1),
    _at_least("local.batch_size", 1),
    ("local.lr", lambda value, _: 0 < value < math.inf, "must be a positive number"),
    _at_least("evaluate.every", 1),
    _at_least("evaluate.batch_size", 1),
    _at_least("evaluate.adapt_steps", 0),
    _at_least("checkpoint.every", 0),
    _at_least("early_stop.patience", 1),
    ("on_client_failure", lambda value, _: value in FAILURES, f"must be one of {', '.join(FAILURES)}"),
    (
        "compression.down",
        lambda value, _: OmegaConf.is_config(value),
        "is chosen as compression/down=none, fp16 or quantize",
    ),
    ("partition.holdout", lambda value, _: is_number(value) and 0 <= value < 1, "must be from 0 to below 1"),
]


def validate(cfg: DictConfig) -> None:
    """Raise ConfigError for the first key or value that cannot be, named as on the command line."""
    for name in map(str, cfg):
        if name not in Config.__dataclass_fields__:
            known = flat(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
            raise ConfigError(f"{name}: unknown key; {suggest(name, known)}")
    complete = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(cfg, resolve=True))
    if missing := OmegaConf.missing_keys(complete):
        raise ConfigError(f"{min(missing)}: has no value")
    for key, holds, wish in RULES:
        value = OmegaConf.select(cfg, key)
        require(key, value, holds(value, cfg), wish.format_map(cfg))


def require(key: str, value: Any, holds: bool, wish: str) -> None:
    """Raise ConfigError where the value of a key does not hold."""
    if not holds:
        raise ConfigError(f"{key}={value}: {wish}")


def require_seconds(key: str, value: float | None) -> None:
    require(key, value, value is None or 0 < value < math.inf, "must be a positive number, or null")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
