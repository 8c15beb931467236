"""Paths in a config, which must be found from any folder later."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fl_bench.errors import ConfigError

# The last may be a hub's name instead.
PATHS = (
    "data.root", "data.facts", "data.cache", "model.init", "network.traces", "partition.path", "engine.certs",
    "model.path", "topology.path",
)  # fmt: skip
SHARED = "FL_BENCH_SHARED_DATA"  # a variable that names a folder such as data.cache, for the cells of one sweep
MODEL, INIT = "model.safetensors", "init.safetensors"  # what a run has made, and what it began from
TO_CONVERT = "save_file(torch.load(FILE, weights_only=True), 'model.safetensors') of safetensors.torch makes one"


def with_absolute_paths(cfg: DictConfig) -> DictConfig:
    """The same config, in which paths to what is there do not depend on the current folder."""
    found = {key: OmegaConf.select(cfg, key) for key in PATHS}
    texts = {key: os.path.expanduser(value) for key, value in found.items() if isinstance(value, str) and value}
    changed = cfg.copy()
    for key, text in texts.items():
        if Path(text).exists():
            OmegaConf.update(changed, key, os.path.abspath(text))
    return changed


def initial_model(cfg: DictConfig) -> Path | None:
    """The file that `model.init` names, None where it names none; ConfigError where it is not there."""
    init = cfg.model.init
    if init is None:
        return None
    path = Path(init).expanduser()
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"model.init={init}: there is no file {file}")
    if file.suffix != ".safetensors":
        raise ConfigError(
            f"model.init={init}: must be the folder of a run or a .safetensors file, as a pickle may run code; "
            f"{TO_CONVERT}"
        )
    return file
