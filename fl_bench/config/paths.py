"""Paths in a config, which must be found from any folder later."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

PATHS = ("data.root", "model.path", "network.traces", "partition.path")  # model.path may also be a name on the hub


def with_absolute_paths(cfg: DictConfig) -> DictConfig:
    """The same config, in which paths to what is there do not depend on the current folder."""
    found = {key: OmegaConf.select(cfg, key) for key in PATHS}
    texts = {key: os.path.expanduser(value) for key, value in found.items() if isinstance(value, str) and value}
    changed = cfg.copy()
    for key, text in texts.items():
        if Path(text).exists():
            OmegaConf.update(changed, key, os.path.abspath(text))
    return changed
