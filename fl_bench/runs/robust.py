"""Whether a robust rule can do in a run what it is for."""

from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_bench.build import path
from fl_bench.errors import ConfigError
from fl_bench.network.schedule import Schedule
from fl_bench.robust.base import Rule
from fl_bench.strategies.server import Exchanges

ASKING = ("num_malicious", "num_selected", "beta", "size")  # keys of rules that say how many answers they need


def check_rule(cfg: DictConfig, rule: Rule, schedule: Schedule, strategy: Strategy) -> None:
    """Raise ConfigError where a round has too few clients for the rule, or its strategy needs more than a mean."""
    divides = rule.each and hasattr(strategy, "divisors")  # and so it makes the same of one update
    if cfg.strategy.needs_each_client and rule.only_mean and not divides:
        raise ConfigError(
            "strategy: its server half needs each client's model, and robust leaves it only one; use robust=none or "
            "norm_bound with robust/before=none, or another strategy"
        )
    if rule.root_size and isinstance(strategy, Exchanges):
        raise ConfigError("robust: the server takes a turn of one exchange, and the strategy has rounds of several")
    if rule.needed > schedule.wanted:
        nodes = (cfg.robust, cfg.robust.before) if rule.least > 1 else (cfg.robust.before,)
        keys = [f"{path(node, key)}={node[key]}" for node in nodes for key in ASKING if key in node]
        few = f"needs {rule.needed} answers a round or more, and a round has {schedule.wanted}"
        raise ConfigError(f"{', '.join(keys) or 'robust'}: {few}; raise clients_per_round")
