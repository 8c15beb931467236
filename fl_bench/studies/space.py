"""What a tuning compares and what it searches, from the words of the command line in Hydra's own grammar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from fl_bench.config.changes import HORIZONS
from fl_bench.config.unread import SILENCES
from fl_bench.config.words import values
from fl_bench.errors import ConfigError

Space = Mapping[str, BaseDistribution]
LOG = "log"


@dataclass(frozen=True)
class Arm:
    """What gets a search of its own: its words, and the keys that are searched."""

    label: str
    words: Sequence[str]
    space: Space


@dataclass(frozen=True)
class Words:
    """The words of a tuning: those of all runs, those of each arm by its label, and what is searched by key."""

    fixed: Sequence[str]
    arms: Mapping[str, Sequence[str]]
    space: Space


def split(
    overrides: Sequence[Override], per: Sequence[str], own: Path | None, together: Sequence[Sequence[str]] = ()
) -> Words:
    """What the words of a tuning say.

    Keys of `per` with several values make the arms, of which there is one for each combination, with each list of
    words in `together`. Other keys with several values, and ranges and intervals, are searched. Raises ConfigError for
    a tag that is not `log`.
    """
    fixed, arms, space = list[str](), list[list[str]](), dict[str, BaseDistribution]()
    beside = list[str]()  # what goes with each arm: keys of a group whose options are arms
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif override.is_discrete_sweep() and len(found := values(override, own)) == 1:
            beside.append(f"{key}={found[0]}")
        elif override.is_discrete_sweep() and override.key_or_group in per:
            arms.append([f"{key}={value}" for value in found])
        else:
            space[key] = distribution(override, own)
    all_arms = [[*first, *words] for first in together or [[]] for words in product(*arms)]
    return Words(fixed, {",".join(words) or "all": [*words, *beside] for words in all_arms}, space)


def distribution(override: Override, own: Path | None = None) -> BaseDistribution:
    """What a key is drawn from: interval(a,b), int(interval(a,b)), range(a,b) without b, or values with commas."""
    sweep: Any = override.value()
    tags: set[str] = getattr(sweep, "tags", set())
    if strange := tags - {LOG}:
        raise ConfigError(f"{override.input_line}: tag {min(strange)} is unknown; {LOG} is known")
    log = LOG in tags
    whole = isinstance(getattr(sweep, "start", None), int)
    try:
        if isinstance(sweep, IntervalSweep):
            return (IntDistribution if whole else FloatDistribution)(sweep.start, sweep.end, log=log)  # type: ignore[arg-type]
        if isinstance(sweep, RangeSweep) and whole and isinstance(sweep.step, int):
            numbers = sorted(range(sweep.start, sweep.stop, sweep.step))  # type: ignore[arg-type]
            return IntDistribution(numbers[0], numbers[-1], log=log, step=abs(sweep.step))
    except ValueError as error:
        raise ConfigError(f"{override.input_line}: {' '.join(str(error).split())}") from error
    if log:
        raise ConfigError(f"{override.input_line}: {LOG} is for intervals and ranges of integers")
    return CategoricalDistribution(values(override, own))


def borders(drawn: BaseDistribution) -> list[Any]:
    """The least and the largest that can be drawn, or all that can."""
    return list(drawn.choices) if isinstance(drawn, CategoricalDistribution) else [drawn.low, drawn.high]  # type: ignore[attr-defined]


def arms_of(words: Words, configs: Sequence[DictConfig]) -> list[Arm]:
    """The arms, whose configs these are, each with those of the searched keys that it has.

    Raises ConfigError for a key that no arm has, and an arm that has none: it would be run again and again.
    """
    found = [
        Arm(label, own, {key: drawn for key, drawn in words.space.items() if _has(cfg, key)})
        for (label, own), cfg in zip(words.arms.items(), configs, strict=True)
    ]
    for key in words.space:
        if not any(key in arm.space for arm in found):
            raise ConfigError(f"{key}: no arm has this key")
    if empty := [arm.label for arm in found if not arm.space]:
        searched = ", ".join(words.space) or "no key has an interval or several values"
        raise ConfigError(f"{empty[0]}: there is nothing to search: {searched}")
    return found


def horizons(cfg: DictConfig) -> list[str]:
    """The words that keep the schedules of this run as long as it is, where it is stopped before."""
    silent = {silence.key for silence in SILENCES if silence.holds(cfg)}
    there = [key for key in HORIZONS if key not in silent and OmegaConf.select(cfg, key) is not None]
    return [f"{key}={OmegaConf.select(cfg, key)}" for key in there]


def _has(cfg: DictConfig, key: str) -> bool:
    return key.startswith("+") or OmegaConf.select(cfg, key.replace("/", "."), default=...) is not ...
