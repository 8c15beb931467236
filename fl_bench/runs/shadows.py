"""Shadow runs: the run once more with other seeds, where each row is trained on in half of them."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fl_bench.config.changes import complete, identity
from fl_bench.errors import ConfigError
from fl_bench.storage import run_json

FEWEST = 4  # shadow runs
FOLDER = "shadows"  # in that of the audit: a sweep
HOLDOUT = 0.5  # of a client's rows: a row is trained on in about as many shadow runs as not


def words(cfg: DictConfig, count: int) -> list[str]:
    """What a sweep of so many shadow runs says beside the words of the run."""
    seeds = ",".join(map(str, _seeds(cfg, count)))
    return [f"seed={seeds}", f"partition.holdout={HOLDOUT}", "figures=false", "tracker=none"]


def folders(cfg: DictConfig, sweep: Path, count: int) -> Sequence[Path]:
    """Those of the shadow runs of the run with this config. Raises ConfigError where one is not there."""
    known = {}
    for file in sorted(sweep.glob(f"*/{run_json.NAME}")):
        record = run_json.read_run(file.parent)
        if record["status"] == "done":
            config = OmegaConf.create(complete(record["config"], record.get("choices")))
            known[identity(config)] = file.parent
    found = []
    for seed in _seeds(cfg, count):
        shadow = OmegaConf.merge(cfg, {"seed": seed, "partition": {"holdout": HOLDOUT}})
        assert isinstance(shadow, DictConfig)
        if (folder := known.get(identity(shadow))) is None:
            wish = "make another config than it has; with the version that it had they may not"
            raise ConfigError(f"--shadows {count}: the words of the run {wish}")
        found.append(folder)
    return found


def _seeds(cfg: DictConfig, count: int) -> range:
    return range(cfg.seed + 1, cfg.seed + 1 + count)
