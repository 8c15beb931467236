"""All that can be refused of a config before there is data or torch."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from fl_bench.config.compose import compose, compose_with_choices
from fl_bench.config.fit import refuse_two_rules, refuse_unfit
from fl_bench.config.origin import Origin
from fl_bench.config.rules import validate
from fl_bench.config.unread import Compose, refuse_unread


def refuse_wrong(cfg: DictConfig, origin: Origin, compose: Compose, own: Path | None = None) -> None:
    """Raise ConfigError where it cannot be that of a run; `cfg` still has its interpolations.

    `compose` makes the config of other words; `own` has options of the user's.
    """
    refuse_unfit(cfg, origin.choices, own)
    if "robust" in origin.named:  # else it is the strategy's
        refuse_two_rules(origin.choices, own)
    validate(cfg)
    refuse_unread(cfg, origin, compose, own)


def checked(words: Sequence[str], own: Path | None = None, search: Sequence[str] = ()) -> DictConfig:
    """The config of these words, where they are no run's ConfigError; `search` are words of Hydra's own."""
    cfg, choices = compose_with_choices([*words, *search], own)
    refuse_wrong(cfg, Origin(choices, list(words)), lambda other: compose([*other, *search], own), own)
    return cfg
