"""What a resumed run may change of its config, and how two configs differ."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.errors import ConfigError

# Keys that a resumed run may change without altering finished rounds.
FREE = (
    "num_rounds", "figures", "resume", "checkpoint", "early_stop.patience", "stop_on_divergence", "on_client_failure",
    "engine", "tracker", "data.root",
)  # fmt: skip
NUM_GPUS = "engine.client_resources.num_gpus"  # matters only in that it is 0, or is not
EXACT = ("engine.threads", "engine.vectorize")  # but these change the last bits


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


def refuse_changes(old: Mapping[str, Any], cfg: DictConfig, round: int) -> None:
    """Raise ConfigError where a run that has come to `round` with the config `old` cannot go on with this one."""
    for key, (before, now) in changes(old, OmegaConf.to_container(cfg, resolve=True)).items():  # type: ignore[arg-type]
        if matters(key) or (key == NUM_GPUS and (before == 0) != (now == 0)):
            raise ConfigError(f"{key}={_shown(now)}: the run has {_shown(before)}, and its rounds would be others")
    if cfg.num_rounds < round:
        raise ConfigError(f"num_rounds={cfg.num_rounds}: the run has {round} rounds already")


def _shown(value: Any) -> str:
    return "nothing" if value is ... else str(value)
