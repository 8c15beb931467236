"""What a resumed run may change of its config, and how two configs differ."""

import hashlib
import json
from collections.abc import Container, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.config.compose import GROUPS, MAIN, Choices, compose, options, words_of
from fl_bench.config.paths import PATHS
from fl_bench.errors import ConfigError

# Keys that a resumed run may change without altering finished rounds; of files, digests say whether they are the same.
FREE = (
    "num_rounds", "figures", "resume", "overwrite", "checkpoint", "early_stop.patience", "early_stop.max_megabytes",
    "stop_on_divergence", "on_client_failure", "engine", "tracker", "sweep", "data.root", "data.facts", "data.cache",
    "strategy.max_epsilon", "expected", "model.init", "task.model.init", "secure_aggregation",
    "ledger",
)  # fmt: skip
STAYS = {"ledger.signed": "its ledger has all rounds or none"}  # a free key that no run changes, and why
HORIZONS = ("local.lr_horizon", "strategy.horizon")  # in rounds; they follow num_rounds until the run begins
NUM_GPUS = "engine.client_resources.num_gpus"  # only whether it is 0 matters
AGAIN = ("task.model.init", "task.model.init_skip")  # what model.* says, where a task has model: ${model}
WHOLE = ("local.optimizer",)  # nothing is added to it: an argument that is not there was not given
EXACT = ("engine.threads", "engine.vectorize")  # of the free keys, those that change the last bits


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by their keys with dots."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return values


def complete(old: Mapping[str, Any], choices: Choices | None = None) -> dict[str, Any]:
    """The config of an older run with the keys that have come since, and their defaults.

    They are those of the options that it chose, as far as they are ours and its record has them as `choices`; of a
    group whose option is not known, only those that all of its options have. An older run has no word on its model,
    which is that of its task.
    """
    old, choices = _as_now(old), choices or {}
    shipped = {group: name for group, name in choices.items() if name in options(group)}
    default: Any = OmegaConf.to_container(compose(words_of(shipped)), resolve=False)
    shared: Any = OmegaConf.to_container(OmegaConf.load(MAIN), resolve=False)
    known = {*shipped, "model"} if "task" in shipped and "model" not in choices else {*shipped}
    default |= {group: shared.get(group, {}) for group in GROUPS if group in old and group not in known}
    whole: Any = OmegaConf.to_container(OmegaConf.create(_fill(old, default)), resolve=True)
    return dict(whole)


def changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_choices: Choices | None = None,
    new_choices: Choices | None = None,
) -> dict[str, tuple[Any, Any]]:
    """By key: what two configs say differently; ... stands for nothing.

    A key that only one of them has counts as its default in the other, see `complete`.
    """
    a, b = flat(_as_now(old)), flat(_as_now(new))
    for values in (a, b):
        for key in ("model", *AGAIN):  # an empty mapping, which is a key of its own; what others say
            values.pop(key, None)
    if lacking := b.keys() - a.keys():
        a |= {key: value for key, value in flat(complete(old, old_choices)).items() if key in lacking}
    if lacking := a.keys() - b.keys():
        b |= {key: value for key, value in flat(complete(new, new_choices)).items() if key in lacking}
    return apart(a, b)


def with_horizons(
    cfg: DictConfig, old: Mapping[str, Any], old_choices: Choices | None, named: Container[str]
) -> DictConfig:
    """The same config with the horizons that a run with the config `old` began with, but for those that are `named`."""
    before = flat(complete(old, old_choices))
    changed = cfg.copy()
    for key in HORIZONS:
        if key in before and key not in named and OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(changed, key, before[key])
    return changed


def apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By name: what two mappings say differently; ... stands for nothing."""
    return {key: (a.get(key, ...), b.get(key, ...)) for key in {**a, **b} if a.get(key, ...) != b.get(key, ...)}


def matters(key: str) -> bool:
    """Whether a round could come out differently with another value."""
    return key in EXACT or not any(f"{key}.".startswith(f"{free}.") for free in FREE)


def identity(cfg: DictConfig) -> str:
    """A digest of the seed and all else that a round could depend on: what a run's states and checkpoints belong to.

    Not of paths, whose contents are compared, nor of anything that another run of the same config has otherwise. It is
    made once, when a run begins: a newer version may have keys that an older one did not know.
    """
    values = flat(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    text = json.dumps({key: value for key, value in sorted(values.items()) if matters(key) and key not in PATHS})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def refuse_changes(old: Mapping[str, Any], cfg: DictConfig, round: int, old_choices: Choices | None = None) -> None:
    """Raise ConfigError where a run that has come to `round` with the config `old` cannot go on with this one."""
    new: Any = OmegaConf.to_container(cfg, resolve=True)
    for key, (before, now) in changes(old, new, old_choices).items():
        if matters(key) or key in STAYS or (key == NUM_GPUS and (before == 0) != (now == 0)):
            why = STAYS.get(key, "its rounds would be others")
            raise ConfigError(f"{key}={shown(now)}: the run has {shown(before)}, and {why}")
    if cfg.num_rounds < round:
        raise ConfigError(f"num_rounds={cfg.num_rounds}: the run has {round} rounds already")


def shown(value: Any) -> str:
    return "nothing" if value is ... else str(value)


def _as_now(old: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a run, without a key that task=cifar had once, and that `model.norm` says."""
    task = old.get("task")
    if not isinstance(task, Mapping) or task.get("_target_") != "fl_bench.tasks.cifar.Cifar":
        return old
    return {**old, "task": {key: value for key, value in task.items() if key != "norm"}}


def _fill(old: Mapping[str, Any], default: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`old` with what only `default` has."""
    filled = dict(old)
    for name, value in default.items():
        here = old.get(name, ...)
        if here is ...:
            filled[name] = value
        elif isinstance(here, Mapping) and isinstance(value, Mapping) and f"{prefix}{name}" not in WHOLE:
            filled[name] = _fill(here, value, f"{prefix}{name}.")
    return filled
