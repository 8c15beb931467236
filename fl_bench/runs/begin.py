"""Whether a run may begin in a folder, or go on there, and what it writes there first."""

import shlex
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fl_bench.config import trust
from fl_bench.config.origin import Origin
from fl_bench.errors import ConfigError, Damaged
from fl_bench.storage import files, run_json
from fl_bench.storage.folder import check_links

SNAPSHOT = ".hydra"  # what Hydra itself writes before a job, and so before anything is checked


class Start(Enum):
    """How a run starts in its folder."""

    NEW = "new"  # the folder is empty
    RESUME = "resume"  # from the newest checkpoint, if there is one
    OVERWRITE = "overwrite"  # the run that is there goes, once this one is known to work

    @classmethod
    def of(cls, cfg: DictConfig) -> "Start":
        if cfg.resume and cfg.overwrite:
            raise ConfigError("overwrite=true: cannot go on with a run and replace it; leave out resume or overwrite")
        return cls.RESUME if cfg.resume else cls.OVERWRITE if cfg.overwrite else cls.NEW


def claim(folder: Path, start: Start) -> Start:
    """How the run starts: NEW where the folder is empty.

    Raises ConfigError where something of the user's is in the way, of which nothing is touched.
    """
    check_links(folder)
    if all(entry.name == SNAPSHOT for entry in folder.iterdir()):
        return Start.NEW
    try:
        found = "config" in run_json.read(folder)
    except Damaged:  # what a run needs to go on is in its checkpoints
        found = start is Start.RESUME and any((folder / "checkpoint").glob("*.safetensors"))
        if not found:
            raise
    if not found:
        raise ConfigError(f"hydra.run.dir={folder}: is not empty and not the folder of a run; choose another")
    if start is Start.NEW:
        raise ConfigError(
            f"hydra.run.dir={folder}: holds a run; resume=true goes on with it, overwrite=true replaces it"
        )
    return start


def write_snapshot(folder: Path, origin: Origin) -> None:
    """What Hydra knows of the words of this run."""
    for name, text in origin.hydra.items():
        (folder / SNAPSHOT).mkdir(exist_ok=True)
        files.write(folder / SNAPSHOT / name, text.encode())


def resume_command(folder: Path, config: Mapping[Any, Any]) -> str:
    """What to type to go on with the run in `folder`, which has this config."""
    return shlex.join(["fl-bench", "resume", str(folder), *trust.flags(config)])
