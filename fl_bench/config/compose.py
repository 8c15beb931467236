"""Hydra composes the config of some words, also while a job of Hydra is going on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from fl_bench.config.schema import CONF

MAIN = CONF / "config.yaml"
GROUPS = tuple(
    str(group)
    for entry in OmegaConf.load(MAIN).defaults
    if isinstance(entry, Mapping)
    for group in entry
    if not str(group).startswith("override ")
)
Choices = Mapping[str, str | None]  # by group the name of the chosen option

SEARCH = "hydra.searchpath="


def compose(words: Sequence[str], folder: Path | None = None) -> DictConfig:
    """The config of these words; `folder` has options of the user's own."""
    return compose_with_choices(words, folder)[0]


def compose_with_choices(words: Sequence[str], folder: Path | None = None) -> tuple[DictConfig, dict[str, str | None]]:
    """The config of these words, and by group the name of the option in it."""
    own = [f"{SEARCH}[file://{folder.absolute()}]"] if folder and not any(w.startswith(SEARCH) for w in words) else []
    state = GlobalHydra.instance()
    job, state.hydra = state.hydra, None
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("config", [*words, *own], return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = job
    found = choices(cfg.hydra)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, found


def choices(hydras: Any) -> dict[str, str | None]:
    """By group the name of the chosen option, from Hydra's own config of a job."""
    return {group: hydras.runtime.choices.get(group) for group in GROUPS}


def with_option(cfg: DictConfig, group: str, file: Path) -> Any:
    """The node of a group with the option of this file instead; the keys that all options have keep their values."""
    shared = OmegaConf.select(OmegaConf.load(MAIN), group) or {}
    return OmegaConf.merge({name: cfg[group][name] for name in shared if name in cfg[group]}, OmegaConf.load(file))


def words_of(choices: Choices) -> list[str]:
    """The words that choose these options; none stands for no option, which Hydra does not take."""
    return [f"{group}={name}" for group, name in choices.items() if name is not None]


def options(group: str, folder: Path | None = None) -> dict[str, Path]:
    """The files of a group's options by name, those in `folder` too."""
    folders = [place / group for place in ([folder, CONF] if folder else [CONF])]  # Hydra prefers ours
    files = "**/*.yaml" if group == "experiment" else "*.yaml"  # experiments may lie in folders: published/flgo
    found = ((file, file.relative_to(place).with_suffix("")) for place in folders for file in place.glob(files))
    return dict(sorted((name.as_posix(), file) for file, name in found))
