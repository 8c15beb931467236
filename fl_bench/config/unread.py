"""Keys that somebody has set and that would change nothing."""

import functools
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_bench.config.changes import flat
from fl_bench.config.compose import options, words_of
from fl_bench.config.origin import Origin
from fl_bench.config.suggest import suggest
from fl_bench.config.trees import GRADIENT, are_grown
from fl_bench.errors import ConfigError

Compose = Callable[[Sequence[str]], DictConfig]

# The groups whose other entries are read by interpolations only. What the rest does not know is refused by the schema,
# or by build.py where it is an argument.
PARTS: dict[str, tuple[str, ...]] = {
    "model": ("init", "init_skip"),
    "strategy": ("server", "client", "schedule", "needs_each_client", "check"),
    "compression": ("up", "down"),
}
# The groups whose options have all keys that they take.
WHOLE = (
    "model", "data", "partition", "shift", "data_drift", "augment", "attack", "robust", "privacy", "network",
    "topology", "engine", "tracker",
)  # fmt: skip
KINDS = {"_target_", "source"}  # the keys that say what else there may be
CHOSEN_BY = {"model": "task"}  # the group whose option has the keys of another


class Silence(NamedTuple):
    """`key` has no effect where `holds`, because of what `by` is: `why`, and what would be right."""

    key: str
    by: str
    holds: Callable[[DictConfig], bool]
    why: str


def _rule(key: str, rule: str) -> Silence:
    return Silence(
        f"compression.{key}",
        "compression.rule",
        lambda cfg: cfg.compression.get("rule", rule) != rule,
        f"compression.rule={{cfg.compression.rule}} does not use it; add compression.rule={rule}",
    )


def _speed(key: str) -> Silence:
    return Silence(
        f"network.{key}",
        "network.traces",
        lambda cfg: cfg.network.get("traces") is not None,
        "network.traces={cfg.network.traces} has the devices; add network.traces=null",
    )


def _rate(key: str, *schedules: str) -> Silence:
    return Silence(
        f"local.{key}",
        "local.lr_schedule",
        lambda cfg: cfg.local.lr_schedule not in schedules,
        f"local.lr_schedule={{cfg.local.lr_schedule}} does not use it; add local.lr_schedule={schedules[-1]}",
    )


def _gradient(key: str) -> Silence:
    return Silence(
        f"local.{key}",
        "model._target_",
        are_grown,
        "model=trees takes no steps along a gradient; see model.eta, and local.epochs, the trees of a turn",
    )


def _at_once(key: str) -> Silence:
    timeless = {"dropout": 0, "seconds_per_step": 0, "bytes_per_second_up": inf, "bytes_per_second_down": inf}
    return Silence(
        f"network.{key}",
        "network.seconds_per_step",
        lambda cfg: cfg.network[key] != 0 and all(cfg.network.get(k) == value for k, value in timeless.items()),
        "everybody answers at once; add network=heterogeneous",
    )


SILENCES = [
    Silence(
        "local.epochs",
        "local.steps",
        lambda cfg: cfg.local.steps is not None,
        "local.steps={cfg.local.steps} wins; add local.steps=null",
    ),
    Silence(
        "evaluate.adapt_steps",
        "evaluate.clients",
        lambda cfg: cfg.evaluate.adapt_steps != 0 and not (cfg.evaluate.clients or cfg.partition.get("unseen")),
        "clients are not evaluated; add evaluate.clients=true",
    ),
    Silence(
        "evaluate.max_clients",
        "evaluate.clients",
        lambda cfg: not (cfg.evaluate.clients or cfg.partition.get("unseen")),
        "clients are not evaluated; add evaluate.clients=true",
    ),
    Silence(
        "evaluate.validation",
        "evaluate.clients",
        lambda cfg: cfg.evaluate.validation == "clients" and not cfg.evaluate.clients,
        "clients are not evaluated; add evaluate.clients=true",
    ),
    Silence(
        "early_stop.patience",
        "early_stop.metric",
        lambda cfg: cfg.early_stop.metric is None,
        "there is no metric to watch; add early_stop.metric={cfg.target_metric}",
    ),
    Silence(
        "target_metric",
        "targets",
        lambda cfg: not cfg.targets,
        "there are no targets; add 'targets=[...]'",
    ),
    Silence(
        "model.init_skip",
        "model.init",
        lambda cfg: bool(cfg.model.init_skip) and cfg.model.init is None,
        "all of the model begins as the seed makes it; add model.init=FILE",
    ),
    Silence(
        "attack.fraction",
        "attack.clients",
        lambda cfg: cfg.attack.get("clients") is not None,
        "attack.clients={cfg.attack.clients} wins; add attack.clients=null",
    ),
    Silence(
        "strategy.delta",
        "strategy.order",
        lambda cfg: cfg.strategy.get("order") == "first",
        "strategy.order=first does not use it; add strategy.order=hessian_free",
    ),
    Silence(
        "local.decay",
        "local.optimizer",
        lambda cfg: not cfg.local.optimizer.get("weight_decay", cfg.local.optimizer.get("name") == "AdamW"),
        "nothing decays; add +local.optimizer.weight_decay=1e-3",
    ),
    _rate("lr_decay", "step", "exponential"),
    _rate("lr_every", "step"),
    _rate("lr_final", "cosine"),
    _rate("lr_horizon", "cosine"),
    _rule("threshold", "cmfl"),
    _rule("share", "gradient_norm"),
    _rule("fraction", "esgd"),
    *map(_speed, ("seconds_per_step", "bytes_per_second_up", "bytes_per_second_down", "spread")),
    *map(_at_once, ("deadline_s", "spread")),
    *map(_gradient, GRADIENT),
]


def refuse_unread(cfg: DictConfig, origin: Origin, compose: Compose, folder: Path | None = None) -> None:
    """Raise ConfigError for the first key that nothing reads, or that was named and has no effect.

    `cfg` still has its interpolations. `compose` makes the config of other words.
    """
    named = names(origin.overrides)
    option = functools.cache(lambda: compose(words_of(origin.choices)))
    before = functools.cache(lambda: set(unread(option())))
    if any(word.startswith("+") for word in origin.overrides):
        _refuse_added(cfg, option(), origin)
    for key in unread(cfg):
        if key in named or key in before():  # otherwise a word has replaced what read it
            group = CHOSEN_BY.get(key.split(".")[0], key.split(".")[0])
            tail = suggest(key, flat(OmegaConf.to_container(cfg)), folder)  # type: ignore[arg-type]
            raise ConfigError(f"{key}: nothing reads it with {group}={origin.choices[group]}; {tail}")

    plain = functools.cache(lambda: compose(words_of(origin.choices | {"experiment": None})))

    def layer(key: str) -> int:
        """Who has set a key: 2 a word, 1 the experiment, 0 another option, which may set what another word turns on."""
        if key in named or not origin.choices["experiment"]:
            return 2 * (key in named)
        return int(_said(cfg, key) != _said(plain(), key))

    for key, by, holds, why in SILENCES:
        if OmegaConf.select(cfg, key) is not None and holds(cfg) and layer(key) > layer(by):
            raise ConfigError(f"{key}={OmegaConf.select(cfg, key)}: has no effect: {why.format(cfg=cfg)}")


def _said(cfg: DictConfig, key: str) -> Any:
    """The value of a key as the yaml has it: one that follows another key is not set because the other one is."""
    group, _, name = key.rpartition(".")
    raw: Any = OmegaConf.to_container(OmegaConf.select(cfg, group) if group else cfg, resolve=False)
    return raw.get(name)


def _refuse_added(cfg: DictConfig, option: DictConfig, origin: Origin) -> None:
    """Raise ConfigError for a key that was added to an option of ours, where the class is still the option's."""
    for group in WHOLE:
        name, given, known = origin.choices[group], cfg[group], option[group]
        if name in options(group) and all(given.get(key) == known.get(key) for key in KINDS):
            for key in map(str, given.keys() - known.keys()):
                takes = ", ".join(sorted(map(str, known.keys() - KINDS - {*PARTS.get(group, ())})))
                raise ConfigError(f"{group}.{key}: unknown key; {group}={name} takes {takes or 'none'}")


def unread(cfg: DictConfig) -> Iterator[str]:
    """The keys with which nothing would be built otherwise, whatever their values."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    built = _built(raw)
    for group, parts in PARTS.items():
        entries = {name: value for name, value in raw[group].items() if name not in parts}
        for key in flat(entries, f"{group}."):
            other = OmegaConf.create(raw)
            OmegaConf.update(other, key, "another value")
            try:
                if _built(OmegaConf.to_container(other, resolve=False)) == built:
                    yield key
            except OmegaConfBaseException:  # who reads it cannot take this value
                continue


def names(words: Sequence[str]) -> set[str]:
    """The keys that words of the command line set, with dots."""
    found: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(words)):
        if not override.is_delete():
            value: Any = override.value()
            found |= set(flat({override.key_or_group: value}))
    return found


def _built(raw: Any) -> dict[str, Any]:
    """The values of all that is read, from a config with interpolations."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)  # type: ignore[assignment]
    return values | {group: {part: values[group].get(part) for part in parts} for group, parts in PARTS.items()}
