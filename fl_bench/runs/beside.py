"""Clients that send arrays beside the vector and no updates of it: what there is nothing to make of."""

import math

from omegaconf import DictConfig

from fl_bench.federation.local import Trainer
from fl_bench.runs.refusals import Only, of_updates, refuse_sites, require_forgetful, require_only

NO_UPDATES = "clients send adapters of ranks of their own, and no updates of one vector"
NOT_PLANNED = "the clock plans with bytes that are known before a run, and the ranks of clients are not"
ONLY: Only = {
    **of_updates(NO_UPDATES),
    "ledger.signed": (False, NO_UPDATES),
    "network.bytes_per_second_up": (math.inf, NOT_PLANNED),
    "network.bytes_per_second_down": (math.inf, NOT_PLANNED),
    "network.traces": (None, NOT_PLANNED),
}


def check_adapters(cfg: DictConfig, trainer: Trainer) -> None:
    """Raise ConfigError where a part works on updates of the vector, and adapters travel beside it."""
    if not trainer.algorithm.only_beside:
        return
    refuse_sites(cfg, "strategy: this one")
    require_only(cfg, ONLY, "this strategy")
    require_forgetful((trainer.channel.up, trainer.channel.down))
