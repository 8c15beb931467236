"""run.json: what a run is, how far it has come, and how it ended."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.config.origin import Origin
from fl_bench.errors import ConfigError, Damaged
from fl_bench.machine import describe
from fl_bench.storage import files

NAME = "run.json"
STATUS = {0: "done", 1: "failed", 2: "invalid", 130: "interrupted"}


def new(cfg: DictConfig, origin: Origin) -> dict[str, Any]:
    """The record of a run that begins."""
    record: dict[str, Any] = {"status": "running", "exit_code": None, "seed": cfg.seed, "final": {}}
    record |= {"digests": [], "data": None, "stopped_early": False, "resumed_at": []}
    record |= {"choices": origin.choices, "overrides": origin.overrides}
    return record | describe() | {"config": OmegaConf.to_container(cfg, resolve=True)}


def read(folder: Path) -> dict[str, Any]:
    """The record of the run in `folder`, empty where there is none; Damaged where it cannot be read."""
    try:
        record = json.loads((folder / NAME).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise Damaged(f"{folder / NAME}: is damaged: it is no JSON object")
    return record


def read_run(folder: Path) -> dict[str, Any]:
    """The same; ConfigError where there is none."""
    record = read(folder)
    if "config" not in record:
        raise ConfigError(f"{folder}: is not the folder of a run: it has no run.json with a config")
    return record


def close(folder: Path, error: str) -> None:
    """Record that the run has failed, where its process could not."""
    save(folder, read(folder) | {"status": STATUS[1], "exit_code": 1, "error": error})


def save(folder: Path, record: Mapping[str, Any]) -> None:
    files.write(folder / NAME, (json.dumps(record, indent=2) + "\n").encode())
