"""The words of a sweep, and the folder that it has."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fl_bench.errors import ConfigError, note
from fl_bench.studies.arms import TUNE, arms_of

RESUME, OVERWRITE, SWEEP_DIR = "resume=true", "overwrite=true", "hydra.sweep.dir="
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys="
HOW = "sweep."  # how words begin that say how a sweep is run
SWEEPS, SWEEP = Path("outputs/multirun"), "multirun.yaml"
TUNING, FINAL = "trials.json", "final"  # in the folder of a tuning: what it knows, and the runs of the best


def again(words: Sequence[str], config_dir: Path | None) -> str:
    """The command that goes on with the sweep of these words."""
    flags = ["--config-dir", str(config_dir)] if config_dir else []
    return shlex.join(["fl-bench", "-m", *flags, *without_start(words), RESUME])


def without_start(words: Sequence[str]) -> list[str]:
    """The words that say what is run, not how it starts."""
    return [word for word in words if word.lower() not in (RESUME, OVERWRITE) and not word.startswith(HOW)]


def naming(words: Sequence[str]) -> list[str]:
    """The word with which Hydra names the folders of cells by what is swept alone, where anything is."""
    overrides = [o for o in OverridesParser.create().parse_overrides(list(words)) if not o.is_hydra_override()]
    fixed = [override.get_key_element() for override in overrides if not override.is_sweep_override()]
    if len(fixed) == len(overrides) and not arms_of(words):
        return []
    return [f"{EXCLUDED}[{','.join(fixed)}]"]


def claim(words: Sequence[str]) -> None:
    """Raise ConfigError where Hydra would write its multirun.yaml over that of another sweep, or among other things."""
    for folder in folders(words):
        if not folder.is_dir() or not any(folder.iterdir()):
            continue
        if not (folder / SWEEP).is_file():
            raise ConfigError(f"{SWEEP_DIR}{folder}: is not empty and not the folder of a sweep; choose another")
        kind, is_tuning = ("a tuning", True) if (folder / TUNING).is_file() else ("a sweep", False)
        if is_tuning != (TUNE in words):
            raise ConfigError(f"{SWEEP_DIR}{folder}: holds {kind}; choose another")
        ways = {RESUME: "goes on with it"} | ({} if is_tuning else {OVERWRITE: "replaces it"})
        if not ways.keys() & set(map(str.lower, words)):
            hint = ", ".join(f"{word} {does}" for word, does in ways.items())
            raise ConfigError(f"{SWEEP_DIR}{folder}: holds {kind}; {hint}")


def folders(words: Sequence[str]) -> list[Path]:
    """What these words say of the folder of a sweep."""
    parse = OverridesParser.create().parse_override
    return [Path(str(parse(word).value())) for word in words if word.startswith(SWEEP_DIR)]


def begin(config: DictConfig) -> Path:
    """The folder of a sweep with this config, with Hydra's record of it."""
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / SWEEP)
    return folder


def last(words: Sequence[str]) -> list[str]:
    """Where a sweep is to go on and does not say where: the word for the newest folder of this very sweep."""
    overrides = without_start([word for word in words if not word.startswith(("hydra.", "hydra/"))])
    arms = arms_of(words)
    if RESUME not in map(str.lower, words) or any(word.startswith(SWEEP_DIR) for word in words):
        return []
    for file in sorted(SWEEPS.glob(f"*/{SWEEP}"), reverse=True):
        try:
            hydras = OmegaConf.load(file).hydra
            recorded: Any = OmegaConf.to_container(hydras.overrides.task, resolve=False)
            if without_start(recorded) == overrides and hydras.sweeper.get("arms", []) == arms:
                return [f"{SWEEP_DIR}{file.parent}"]
        except (OmegaConfBaseException, YAMLError, ValueError, AttributeError):
            note(f"{file}: is damaged, and so is no sweep that could go on")
    note(f"resume=true: there is no such sweep in {SWEEPS}: beginning one")
    return []
