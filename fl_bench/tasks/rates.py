"""The learning rate of a round."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import OmegaConf

from fl_bench.build import call, find_target
from fl_bench.config.rules import require

KEY = "local.lr_schedule"
Local = Mapping[str, Any]  # the node `local` of the config

# The share of local.lr that is left after so many rounds of the schedule.
SCHEDULES: dict[str, Callable[[int, Local], float]] = {
    "constant": lambda done, local: 1.0,
    "exponential": lambda done, local: float(local["lr_decay"] ** done),
    "step": lambda done, local: float(local["lr_decay"] ** (done // local["lr_every"])),
    "cosine": lambda done, local: _cosine(done, local),
}


def of_round(local: Local, round: int) -> Local:
    """The node `local` as it is in a round, the first being 1: with the rate that its schedule has come to.

    `lr_schedule` is one of SCHEDULES, or names a function of the rounds done by its `_target_`.
    What is tried before the first round, in round 0, has the rate of the first.

    Examples:
        >>> plain = {"lr": 1.0, "lr_schedule": "step", "lr_decay": 0.5, "lr_every": 2, "lr_warmup": 1}
        >>> [of_round(plain, round)["lr"] for round in range(1, 7)]
        [0.5, 1.0, 1.0, 0.5, 0.5, 0.25]
    """
    round = max(round, 1)
    if round <= local["lr_warmup"]:
        share = round / (local["lr_warmup"] + 1)
    else:
        share = _share(round - 1 - local["lr_warmup"], local)
    return {**local, "lr": local["lr"] * share}


def _share(done: int, local: Local) -> float:
    """What is left of local.lr, by one of SCHEDULES or by a function of the user's own.

    Raises:
        ConfigError: where that function cannot be called, or gives no rate.
    """
    schedule = local["lr_schedule"]
    if isinstance(schedule, str):
        return SCHEDULES[schedule](done, local)
    node = OmegaConf.create({KEY: schedule})[KEY]
    share = call(find_target(node), node, done=done)
    holds = isinstance(share, int | float) and 0 <= share < math.inf
    wish = f"gives {share} after {done} rounds; must be a finite number, 0 or more"
    require(KEY, schedule["_target_"], holds, wish)
    return float(share)


def _cosine(done: int, local: Local) -> float:
    """Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5 without restarts; from the horizon on it stays."""
    past = min(1.0, done / max(1, local["lr_horizon"] - local["lr_warmup"]))
    return float(local["lr_final"] + (1 - local["lr_final"]) * (1 + math.cos(math.pi * past)) / 2)
