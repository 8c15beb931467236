"""The keys of the config with their types; the values are in conf/."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

PACKAGE = Path(__file__).parent.parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # wheel, checkout


@dataclass
class Local:
    epochs: int = MISSING
    steps: int | None = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    lr_schedule: Any = MISSING  # a word, or a mapping with a _target_
    lr_decay: float = MISSING
    lr_every: int = MISSING
    lr_final: float = MISSING
    lr_horizon: int = MISSING
    lr_warmup: int = MISSING
    optimizer: dict[str, Any] = MISSING
    decay: str = MISSING
    clip_norm: float | None = MISSING
    accumulate: int = MISSING
    precision: str = MISSING


@dataclass
class Evaluate:
    every: int = MISSING
    clients: bool = MISSING
    batch_size: int = MISSING
    adapt_steps: Any = MISSING  # a number, or turn
    max_clients: int | None = MISSING
    metrics: list[str] = MISSING
    validation: Any = MISSING  # a share, or clients


@dataclass
class Checkpoint:
    every: int = MISSING


@dataclass
class Ledger:
    signed: bool = MISSING


@dataclass
class Sweep:
    parallel: Any = MISSING  # a number, or auto


@dataclass
class EarlyStop:
    metric: str | None = MISSING
    patience: int = MISSING
    max_megabytes: float | None = MISSING


@dataclass
class Config:
    """The values are in conf/; here are their types."""

    seed: int = MISSING
    num_rounds: int = MISSING
    num_clients: Any = MISSING  # a number, or auto
    clients_per_round: Any = MISSING  # a number; with num_clients=auto also that
    min_clients: int = MISSING
    weighting: str = MISSING
    max_examples: int | None = MISSING
    secure_aggregation: str = MISSING
    targets: list[float] = MISSING
    target_metric: str = MISSING
    expected: dict[str, Any] | None = MISSING
    figures: bool = MISSING
    resume: bool = MISSING
    overwrite: bool = MISSING
    checkpoint: Checkpoint = MISSING
    early_stop: EarlyStop = MISSING
    stop_on_divergence: bool = MISSING
    on_client_failure: str = MISSING
    local: Local = MISSING
    evaluate: Evaluate = MISSING
    engine: dict[str, Any] = MISSING  # each engine has its own keys
    task: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    setting: dict[str, Any] = MISSING
    strategy: dict[str, Any] = MISSING
    partition: dict[str, Any] = MISSING
    shift: dict[str, Any] = MISSING
    data_drift: dict[str, Any] = MISSING
    augment: dict[str, Any] = MISSING
    attack: dict[str, Any] = MISSING
    robust: dict[str, Any] = MISSING
    privacy: dict[str, Any] = MISSING
    compression: dict[str, Any] = MISSING
    network: dict[str, Any] = MISSING
    topology: dict[str, Any] = MISSING
    ledger: Ledger = MISSING
    tracker: dict[str, Any] = MISSING
    sweep: Sweep = MISSING


def at_most(count: int, clients: int | str) -> int:
    """What ${at_most:COUNT,${num_clients}} stands for: COUNT, or all clients where they are fewer and not auto."""
    return min(count, clients) if isinstance(clients, int) else count


ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("at_most", at_most, replace=True)
