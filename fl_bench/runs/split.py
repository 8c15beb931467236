"""A model of which the server half trains a part: what does not go with it, said before a run."""

from collections.abc import Sequence

from omegaconf import DictConfig

from fl_bench.compression.base import Codec
from fl_bench.runs.refusals import Only, of_updates, refuse_sites, require_forgetful, require_only

HALF = "a client's update is of its own half only, beside what it sends at the cut"
TWO_STEPS = "each half takes a step of its own"
ONLY: Only = {
    **of_updates(HALF),
    "local.clip_norm": (None, TWO_STEPS),
    "local.accumulate": (1, TWO_STEPS),
    "local.precision": ("float32", "what is sent at the cut is float32"),
    "evaluate.adapt_steps": (0, "a client alone cannot train the model"),
}


def check_split(cfg: DictConfig, codecs: Sequence[Codec]) -> None:
    """Raise ConfigError where a part is for whole models only; `codecs` are those of the ways up and down."""
    refuse_sites(cfg, "strategy=splitfed:")
    require_only(cfg, ONLY, "strategy=splitfed")
    require_forgetful(codecs)
