"""Whether options of different groups go together: a task with a model, a strategy with a robust rule."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.config.compose import Choices, compose_with_choices
from fl_bench.errors import ConfigError

KEY = re.compile(r"\$\{model\.(\w+)")


def refuse_two_rules(choices: Choices, folder: Path | None = None) -> None:
    """Raise ConfigError where the strategy is FedAvg with a rule, and another rule was chosen, or none."""
    chosen, name = choices["robust"], choices["strategy"]
    own = compose_with_choices([f"strategy={name}"], folder)[1]["robust"]
    if own not in ("none", chosen):
        raise ConfigError(f"robust={chosen}: strategy={name} is FedAvg with robust={own}; use strategy=fedavg")


def refuse_unfit(cfg: DictConfig, choices: Choices, folder: Path | None = None) -> None:
    """Raise ConfigError where they do not fit; `cfg` still has its interpolations.

    A task whose yaml says `model: ${model}` takes each option that has a `_target_`; any other task reads keys of it.
    """
    task: Any = OmegaConf.to_container(cfg, resolve=False)["task"]  # type: ignore[index,call-overload]
    if not isinstance(task, dict) or not OmegaConf.is_dict(cfg.model):
        return  # which the rules refuse
    by_name = "${model}" in task.values()
    if by_name == ("_target_" in cfg.model) and set(KEY.findall(str(task))) <= cfg.model.keys():
        return
    chosen, name = choices["model"], choices["task"]
    default = compose_with_choices([f"task={name}"], folder)[1]["model"]
    has = f"it has model={default}" if default != chosen else "see docs/models.md"
    raise ConfigError(f"model={chosen}: does not fit task={name}; {has}")
