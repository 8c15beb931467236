"""Clients that hold columns: what they cannot do, said before a run."""

from collections.abc import Sequence

from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_bench.compression.base import Codec
from fl_bench.config.rules import require
from fl_bench.errors import ConfigError
from fl_bench.runs.refusals import Only, of_updates, require_forgetful, require_only
from fl_bench.runs.split import check_split
from fl_bench.strategies.server import own_part
from fl_bench.tasks.base import ByName, Task

# Keys that must have a value, and why: what others make of updates, there is nothing to make of.
NO_UPDATES = "clients send embeddings, and no updates"
SAME_ROWS = "clients have the same rows, of which they hold other columns, and none holds any out"
NO_LABELS = "clients have no labels"
ONLY: Only = {
    **of_updates(NO_UPDATES, "; strategy.noise is added to these"),
    "weighting": ("examples", NO_UPDATES),
    "min_clients": (1, "the server trains also where nobody answers"),
    "partition._target_": ("fl_bench.data.partition.iid", f"{SAME_ROWS}; setting.overlap says how many"),
    "partition.holdout": (0, SAME_ROWS),
    "partition.unseen": (0, SAME_ROWS),
    "shift._target_": ("fl_bench.data.shift.none", SAME_ROWS),
    "data_drift._target_": ("fl_bench.data.drift.Drift", SAME_ROWS),
    "augment._target_": ("fl_bench.data.augment.Augment", "the parts of an image would be changed each in its own way"),
    "evaluate.clients": (False, NO_LABELS),
    "evaluate.validation": (0, NO_LABELS),
    "local.accumulate": (1, NO_LABELS),
    "local.precision": ("float32", "embeddings travel as float32"),
    "model.init": (None, "the parts of the model begin as the seed makes them"),
}


def check_setting(cfg: DictConfig, task: Task, strategy: Strategy, codecs: Sequence[Codec]) -> None:
    """Raise ConfigError where the strategy, or another part, is not for what the clients hold.

    `codecs` are those of the ways up and down.
    """
    name, own = type(strategy).__name__, own_part(strategy)
    if not cfg.setting:
        if own.vertical:
            raise ConfigError(f"strategy: {name} is for clients that hold columns; add setting=vertical")
        if own.splits:
            check_split(cfg, codecs)
        return
    if not own.vertical:
        wish = "averages models, and clients with other columns have none in common; leave strategy=... out"
        raise ConfigError(f"setting=vertical: {name} {wish}")
    if not isinstance(task, ByName):
        wish = "has no examples of which a party could have some columns; use mnist, tabular, images or series"
        raise ConfigError(f"setting=vertical: task {type(task).__name__} {wish}")
    overlap = cfg.setting.overlap
    require("setting.overlap", overlap, 0 < overlap <= 1, "must be above 0 and at most 1")
    require_only(cfg, ONLY, "setting=vertical")
    require_forgetful(codecs)
