"""The schema of the config, and the checks that need neither data nor torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from fl_bench.build import nearest
from fl_bench.errors import ConfigError
from fl_bench.machine import num_cpus

HERE = Path(__file__).parent
CONF = next(folder for folder in (HERE / "conf", HERE.parent / "conf") if folder.is_dir())  # in a wheel; in a checkout


@dataclass
class Local:
    epochs: int = MISSING
    steps: int | None = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    optimizer: dict[str, Any] = MISSING


@dataclass
class Evaluate:
    every: int = MISSING
    clients: bool = MISSING
    batch_size: int = MISSING
    adapt_steps: int = MISSING


@dataclass
class Checkpoint:
    every: int = MISSING


@dataclass
class EarlyStop:
    metric: str | None = MISSING
    patience: int = MISSING


@dataclass
class Resources:
    num_cpus: float = MISSING
    num_gpus: Any = MISSING  # a number, or "auto"


@dataclass
class Ray:
    address: str | None = MISSING


@dataclass
class Engine:
    _target_: str = MISSING
    own_process: bool = MISSING
    threads: int = MISSING
    packing: bool = MISSING
    vectorize: Any = MISSING  # a number, "auto" or "off"
    client_timeout_s: float | None = MISSING
    round_timeout_s: float | None = MISSING
    max_restarts: int = MISSING
    client_resources: Resources = MISSING
    ray: Ray = MISSING


@dataclass
class Config:
    """The values are in conf/; here are their types."""

    seed: int = MISSING
    num_rounds: int = MISSING
    num_clients: int = MISSING
    clients_per_round: int = MISSING
    min_clients: int = MISSING
    targets: list[float] = MISSING
    target_metric: str = MISSING
    figures: bool = MISSING
    resume: bool = MISSING
    checkpoint: Checkpoint = MISSING
    early_stop: EarlyStop = MISSING
    stop_on_divergence: bool = MISSING
    on_client_failure: str = MISSING
    local: Local = MISSING
    evaluate: Evaluate = MISSING
    engine: Engine = MISSING
    task: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    strategy: dict[str, Any] = MISSING
    partition: dict[str, Any] = MISSING
    compression: dict[str, Any] = MISSING
    network: dict[str, Any] = MISSING


ConfigStore.instance().store(name="schema", node=Config)

FAILURES = ("skip", "retry", "abort")
# What a run that goes on may change: it makes no difference to the rounds that there are.
FREE = (
    "num_rounds", "figures", "resume", "checkpoint", "early_stop.patience", "stop_on_divergence", "on_client_failure",
    "engine", "data.root",
)  # fmt: skip
NUM_GPUS = "engine.client_resources.num_gpus"  # matters only in that it is 0, or is not
EXACT = ("engine.threads", "engine.vectorize")  # but these change the last bits

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


def check(cfg: DictConfig) -> None:
    """Raise ConfigError for the first key or value that cannot be, named as on the command line."""
    for name in map(str, cfg):
        if name not in Config.__dataclass_fields__:
            raise ConfigError(f"{name}: unknown key; {nearest(name, Config.__dataclass_fields__)}")
    complete = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(cfg, resolve=True))
    if missing := OmegaConf.missing_keys(complete):
        raise ConfigError(f"{min(missing)}: has no value")
    for key, holds, wish in RULES:
        value = OmegaConf.select(cfg, key)
        if not holds(value, cfg):
            raise ConfigError(f"{key}={value}: {wish.format_map(cfg)}")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by their keys with dots."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return values


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By key: what two configs say differently; ... stands for nothing."""
    a, b = flat(old), flat(new)
    return {key: (a.get(key, ...), b.get(key, ...)) for key in {**a, **b} if a.get(key, ...) != b.get(key, ...)}


def matters(key: str) -> bool:
    """Whether a round could come out differently with another value."""
    return key in EXACT or not any(f"{key}.".startswith(f"{free}.") for free in FREE)


def check_changes(old: Mapping[str, Any], cfg: DictConfig, round: int) -> None:
    """Raise ConfigError where a run that has come to `round` with the config `old` cannot go on with this one."""
    for key, (before, now) in changes(old, OmegaConf.to_container(cfg, resolve=True)).items():  # type: ignore[arg-type]
        if matters(key) or (key == NUM_GPUS and (before == 0) != (now == 0)):
            raise ConfigError(f"{key}={_shown(now)}: the run has {_shown(before)}, and its rounds would be others")
    if cfg.num_rounds < round:
        raise ConfigError(f"num_rounds={cfg.num_rounds}: the run has {round} rounds already")


def _shown(value: Any) -> str:
    return "nothing" if value is ... else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
