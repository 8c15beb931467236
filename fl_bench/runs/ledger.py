"""Whether a run's rounds can be made once more of what a ledger keeps of them."""

from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_bench.config.rules import MASKS, at_sites
from fl_bench.errors import ConfigError
from fl_bench.robust.base import Rule
from fl_bench.strategies.server import Exchanges


def check_ledger(cfg: DictConfig, strategy: Strategy, rule: Rule) -> None:
    """Raise ConfigError where they cannot."""
    for unfit, what in (
        (cfg.secure_aggregation == MASKS, "secure_aggregation=masks: hides the updates"),
        (rule.root_size > 0, "robust: its server trains on rows of its own"),
        (isinstance(strategy, Exchanges), "strategy: its rounds have several exchanges, of other arrays than models"),
        (
            at_sites(cfg) and getattr(strategy, "privacy", None) is not None,
            "strategy: on real sites the noise of its server half is secret",
        ),
    ):
        if unfit:
            raise ConfigError(f"{what}, and of a ledger everybody can make the models again; use ledger=none")
