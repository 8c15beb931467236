"""What values a config may have, as far as that needs neither data nor torch."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.config import trees
from fl_bench.config.changes import flat
from fl_bench.config.paths import PATHS
from fl_bench.config.schema import Config
from fl_bench.config.suggest import suggest
from fl_bench.errors import ConfigError

MASKS = "masks"  # a value of secure_aggregation
WORDS = {  # of keys that take one of a few
    "weighting": ("examples", "uniform"),
    "secure_aggregation": ("none", MASKS),
    "on_client_failure": ("skip", "retry", "abort"),
    "local.decay": ("all", "weights"),
    "local.precision": ("float32", "bf16"),
}

EXPECTED = {"source", "metric", "rounds", "at", "results"}  # of what is published
REPORTED = ("last", "validation", "best")  # the round that a published number is of: by the test set, best is a maximum

SCHEDULES = ("constant", "exponential", "step", "cosine")

Rule = tuple[str, Callable[[Any, DictConfig], bool], str]


DEEPEST = 50  # lists and mappings in each other, of what a run records; OmegaConf fails at about twice as many
OUTSIDE = 5  # how many of them a record may have around a key of the config, and more
COUNT, LARGEST = 2**31 - 1, 2**63 - 1  # of anything; of an integer
MOST_CLIENTS = 10**7
AUTO_CLIENTS = "auto"  # as many as the data has sources
ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s/@:\[\]]+):([0-9]{1,5})")  # IPv6 addresses in brackets
NATURAL, SITES = "fl_bench.data.partition.natural", "fl_bench.data.split.sites"
DEPLOYMENT = "fl_bench.engines.deployment.Deployment"


def at_sites(config: Any) -> bool:
    """Whether the clients of a run with this config are at sites of their own, where what they keep stays."""
    engine = config.get("engine")
    return hasattr(engine, "get") and engine.get("_target_") == DEPLOYMENT


def _at_least(key: str, low: int) -> Rule:
    return key, lambda value, _: value >= low, f"must be {low} or more"


def _at_most(key: str, high: int = COUNT) -> Rule:
    return key, lambda value, _: value is None or value <= high, f"must be at most {high}"


def _between(key: str, low: int, high: int = COUNT) -> tuple[Rule, Rule]:
    return _at_least(key, low), _at_most(key, high)


def _clients(key: str, high: int) -> tuple[Rule, ...]:
    """A number of clients, or auto, which what knows the data turns into one."""
    return (
        (key, lambda value, _: value == AUTO_CLIENTS or is_integer(value), "must be a whole number, or auto"),
        (key, lambda value, _: value == AUTO_CLIENTS or value >= 1, "must be 1 or more"),
        (key, lambda value, _: value == AUTO_CLIENTS or value <= high, f"must be at most {high}"),
    )


def _one_of(key: str, words: Sequence[str]) -> Rule:
    return key, lambda value, _: value in words, f"must be one of {', '.join(words)}"


def _part(key: str) -> Rule:
    wish = f"must be a mapping with a _target_; the yaml that is chosen as {key.split('.')[0]}=... has to have it"
    return key, lambda value, _: isinstance(value, DictConfig) and "_target_" in value, wish


def _partition(key: str, holds: Callable[[float], bool], wish: str) -> Rule:
    """Of a key that ours may have; in a partition of one's own it may mean something else."""

    def fits(value: Any, cfg: DictConfig) -> bool:
        ours = str(cfg.partition.get("_target_")).startswith("fl_bench.")
        return not (ours and key in cfg.partition) or (is_number(value) and holds(value))

    return f"partition.{key}", fits, wish


RULES: list[Rule] = [
    *(_one_of(key, words) for key, words in WORDS.items()),
    ("seed", lambda value, _: 0 <= value < 2**63, "must be between 0 and 2**63 - 1"),
    *_between("num_rounds", 1),
    *_clients("num_clients", MOST_CLIENTS),
    (
        "num_clients",
        lambda value, cfg: value != AUTO_CLIENTS or cfg.partition.get("_target_") in (NATURAL, SITES),
        "needs partition=natural, and data with sources; or partition=sites",
    ),
    (
        "num_clients",
        lambda value, cfg: value != AUTO_CLIENTS or OmegaConf.select(cfg, "strategy.server.privacy") is None,
        "must be a number where epsilon is counted; a run without it says how many there are",
    ),
    *_clients("clients_per_round", COUNT),
    (
        "clients_per_round",
        lambda value, cfg: cfg.num_clients == AUTO_CLIENTS or (value != AUTO_CLIENTS and value <= cfg.num_clients),
        "must not be more than num_clients={num_clients}",
    ),
    *_between("min_clients", 1),
    ("max_examples", lambda value, _: value is None or 1 <= value <= COUNT, "must be 1 or more, or null"),
    ("local.steps", lambda value, _: value is None or value >= 1, "must be 1 or more, or null to count in epochs"),
    _at_most("local.steps"),
    *_between("local.epochs", 1),
    *_between("local.batch_size", 1),
    ("local.lr", lambda value, _: 0 < value < math.inf, "must be a positive number"),
    (
        "local.lr_schedule",
        lambda value, _: value in SCHEDULES or (OmegaConf.is_dict(value) and "_target_" in value),
        f"must be one of {', '.join(SCHEDULES)}, or a mapping with the _target_ of a function of the rounds done",
    ),
    ("local.lr_decay", lambda value, _: 0 < value <= 1, "must be above 0 and at most 1"),
    ("local.lr_final", lambda value, _: 0 <= value <= 1, "must be from 0 to 1"),
    *_between("local.lr_every", 1),
    *_between("local.lr_horizon", 1),
    *_between("local.lr_warmup", 0),
    ("local.clip_norm", lambda value, _: value is None or 0 < value < math.inf, "must be a positive number, or null"),
    *_between("local.accumulate", 1),
    *_between("evaluate.every", 1),
    *_between("evaluate.batch_size", 1),
    ("evaluate.adapt_steps", lambda value, _: value == "turn" or is_count(value), "must be a number of steps, or turn"),
    (
        "evaluate.validation",
        lambda value, _: value == "clients" or (is_number(value) and 0 <= value < 1),
        "must be from 0 to below 1, or clients",
    ),
    ("evaluate.max_clients", lambda value, _: value is None or 1 <= value <= COUNT, "must be 1 or more, or null"),
    *_between("checkpoint.every", 0),
    (
        "sweep.parallel",
        lambda value, _: value == "auto" or (is_count(value) and value > 0),
        "must be a number of cells, or auto",
    ),
    *_between("early_stop.patience", 1),
    ("early_stop.max_megabytes", lambda value, _: value is None or value > 0, "must be a positive number, or null"),
    ("targets", lambda value, _: all(is_number(v) and math.isfinite(v) for v in value), "must be finite numbers"),
    (
        "compression.down",
        lambda value, _: OmegaConf.is_config(value),
        "is chosen as compression/down=none, fp16 or quantize",
    ),
    (
        "robust.before",
        lambda value, _: OmegaConf.is_config(value),
        "is chosen as robust/before=none, nnm or bucketing",
    ),
    *(
        _part(key)
        for key in (
            "task",
            "partition",
            "shift",
            "data_drift",
            "augment",
            "attack",
            "robust",
            "privacy",
            "network",
            "topology",
            "engine",
            "tracker",
            "compression.up",
        )
    ),
    *(_part(f"strategy.{key}") for key in ("server", "client", "schedule")),
    *((key, lambda value, _: value != "", "must not be empty") for key in PATHS),
    ("data.cache", lambda value, _: value is None or isinstance(value, str), "must be a folder, or null"),
    ("model.init", lambda value, _: value is None or isinstance(value, str), "must be a folder or a file, or null"),
    ("model.init_skip", lambda value, _: is_texts(value), "must be a list of patterns"),
    (
        "expected",
        lambda value, _: value is None or _is_expected(value),
        "must have source, metric, rounds, at (last, validation or best) and results, a list of {{value, where}}",
    ),
    (
        "partition.holdout",  # sites know what they hold out
        lambda value, cfg: cfg.partition._target_ == SITES or (is_number(value) and 0 <= value < 1),
        "must be from 0 to below 1",
    ),
    (
        "engine._target_",
        lambda value, cfg: value != DEPLOYMENT or not trees.are_grown(cfg),
        "sites exchange vectors of numbers, and model=trees is none; use engine=simulation",
    ),
    *trees.RULES,
    _partition("alpha", lambda value: 0 < value < math.inf, "must be a positive number"),
    _partition("sigma", lambda value: 0 <= value < math.inf, "must be 0 or more"),
    (
        "partition.unseen",  # a partition of one's own need not say it
        lambda value, _: value is None or (is_number(value) and 0 <= value < 1),
        "must be from 0 to below 1",
    ),
]


def validate(cfg: DictConfig) -> None:
    """Raise ConfigError for the first key or value that cannot be, named as on the command line."""
    for name in map(str, cfg):
        if name not in Config.__dataclass_fields__:
            known = flat(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
            raise ConfigError(f"{name}: unknown key; {suggest(name, known)}")
    if missing := Config.__dataclass_fields__.keys() - cfg.keys():  # before those that follow one of them
        raise ConfigError(f"{min(missing)}: has no value")
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    complete = OmegaConf.merge(OmegaConf.structured(Config), values)
    if unset := OmegaConf.missing_keys(complete):
        raise ConfigError(f"{min(unset)}: has no value")
    for key, value in flat(values).items():
        require(key, value, not isinstance(value, int) or abs(value) <= LARGEST, "is too large a number")
        if key.count(".") + _depth(value) > DEEPEST - OUTSIDE:
            raise ConfigError(f"{key}: its lists are nested too deep")
    for key, holds, wish in RULES:
        value = OmegaConf.select(cfg, key)
        require(key, value, holds(value, cfg), wish.format_map(cfg))


def _depth(value: Any) -> int:
    """How many lists and mappings are in each other."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)


def require(key: str, value: Any, holds: bool, wish: str) -> None:
    """Raise ConfigError where the value of a key does not hold."""
    if not holds:
        raise ConfigError(f"{key}={value}: {wish}")


def require_seconds(key: str, value: float | None) -> None:
    require(key, value, value is None or 0 < value < math.inf, "must be a positive number, or null")


def require_address(key: str, value: Any, given: str = "=") -> None:
    """Raise ConfigError where a link cannot be there; `given` stands between key and value."""
    found = ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[1]) < 2**16:
        raise ConfigError(
            f"{key}{given}{value}: must be HOST:PORT of a link, or [ADDRESS]:PORT; `fl-bench link` starts one"
        )


def _is_expected(value: Any) -> bool:
    if set(value) != EXPECTED or value.at not in REPORTED or not OmegaConf.is_list(value.results):
        return False
    return all(OmegaConf.is_dict(result) and set(result) == {"value", "where"} for result in value.results)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return is_integer(value) and 0 <= value <= COUNT


def is_texts(value: Any) -> bool:
    return OmegaConf.is_list(value) and all(isinstance(text, str) for text in value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
