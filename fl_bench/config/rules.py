"""What values a config may have, as far as that needs neither data nor torch."""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.config.changes import flat
from fl_bench.config.schema import Config
from fl_bench.config.suggest import suggest
from fl_bench.errors import ConfigError
from fl_bench.machine import num_cpus

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
    _at_least("engine.threads", 1),
    _at_least("engine.max_restarts", 0),
    *(
        (f"engine.{key}", lambda value, _: value is None or 0 < value < math.inf, "must be a positive number, or null")
        for key in ("client_timeout_s", "round_timeout_s")
    ),
    (
        "engine.client_resources.num_cpus",
        lambda value, cfg: value > 0 and (value <= num_cpus() or cfg.engine.ray.address is not None),
        f"must be more than 0 and, without engine.ray.address, at most this machine's {num_cpus()} CPUs",
    ),
    (
        "engine.client_resources.num_gpus",
        lambda value, _: value == "auto" or (_is_number(value) and 0 <= value < math.inf),
        "must be a number from 0, or auto",
    ),
    (
        "engine.vectorize",
        lambda value, _: value in ("auto", "off") or (isinstance(value, int) and value >= 2),
        "must be auto, off, or a number of clients from 2",
    ),
    (
        "compression.down",
        lambda value, _: OmegaConf.is_config(value),
        "is chosen as compression/down=none, fp16 or quantize",
    ),
    ("partition.holdout", lambda value, _: _is_number(value) and 0 <= value < 1, "must be from 0 to below 1"),
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
        if not holds(value, cfg):
            raise ConfigError(f"{key}={value}: {wish.format_map(cfg)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
