"""run.json: what a run is, how far it has come, and how it ended.

JSON has no numbers that are not finite: they are written as the strings of NOT_FINITE, and read as numbers again.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, ValidationError

from fl_bench.config.origin import Origin
from fl_bench.config.rules import DEEPEST
from fl_bench.errors import ConfigError, Damaged
from fl_bench.machine import describe
from fl_bench.storage import files

NAME = "run.json"
RESULTS = ("metrics.csv", "clients.csv", "partition.csv", "timing.csv", "model.safetensors")
DERIVED = ("per_class.csv", "confusion.csv")  # from the model; older runs have none, and some tasks
LARGEST = 2**28  # bytes that are read: of a record with millions of rounds
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
STATUS = {0: "done", 1: "failed", 2: "invalid", 130: "interrupted"}


def new(cfg: DictConfig, origin: Origin) -> dict[str, Any]:
    """The record of a run that begins."""
    record: dict[str, Any] = {"status": "running", "exit_code": None, "seed": cfg.seed, "final": {}}
    record |= {"best": None, "digests": [], "data": None, "stopped_early": False, "resumed_at": []}
    record |= {"choices": origin.choices, "overrides": origin.overrides}
    return record | describe() | {"config": OmegaConf.to_container(cfg, resolve=True)}


class Chosen(BaseModel):
    """The types of the keys of a config by which runs are compared."""

    model_config = ConfigDict(strict=True, extra="allow")

    seed: int | None = None
    targets: list[float] | None = None
    target_metric: str | None = None


class Record(BaseModel):
    """The types of the entries that are used later; older versions did not write all of them."""

    model_config = ConfigDict(strict=True, extra="allow")

    config: Chosen = Chosen()
    choices: dict[str, str | None] = {}
    overrides: list[str] = []
    status: str = ""
    error: str = ""
    stopped_early: bool = False
    final: dict[str, Any] = {}
    best: dict[str, Any] | None = None  # the round that is best by validation
    better: dict[str, Literal["lower", "higher"]] = {}  # by the names of the task's metrics
    digests: list[str] = []
    data: dict[str, str] | None = None
    resumed_at: list[int] = []
    files: dict[str, str] = {}


OLDER = Record().model_dump(include={"status", "stopped_early", "final", "digests", "data"})  # what is read unasked


def read(folder: Path) -> dict[str, Any]:
    """The record of the run in `folder`, empty where there is none; Damaged where it cannot be read."""
    file = folder / NAME
    try:
        if file.stat().st_size > LARGEST:
            raise Damaged(f"{file}: is damaged: it has more than {LARGEST} bytes")
        record = json.loads(file.read_text())
        if not isinstance(record, dict):
            raise ValueError
        check_config(file, record.get("config"))
        Record.model_validate(record)
        found: dict[str, Any] = _each(record, _number)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{file}: is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise Damaged(f"{file}: is damaged: it is no JSON object, or nested too deep") from None
    return OLDER | found


def check_config(file: Path, config: Any) -> None:
    """Raise Damaged where this, found in a file, cannot be the config of a run: those are resolved, and flat enough."""
    try:
        text = json.dumps(_each(config, lambda value: value))
    except ValueError:
        raise Damaged(f"{file}: is damaged: its config is nested too deep") from None
    if "${" in text:
        raise Damaged(f"{file}: is damaged: its config has an interpolation, and what is recorded has none")


def read_run(folder: Path) -> dict[str, Any]:
    """The same; ConfigError where there is none."""
    record = read(folder)
    if "config" not in record:
        raise ConfigError(f"{folder}: is not the folder of a run: it has no run.json with a config")
    return record


def seals(folder: Path, names: Sequence[str] = RESULTS + DERIVED) -> dict[str, str]:
    """The digests of the results that are there, by name."""
    return {name: files.digest_of(folder / name) for name in names if (folder / name).exists()}


def changed(folder: Path, record: Mapping[str, Any], names: Sequence[str] = RESULTS + DERIVED) -> list[str]:
    """Which results of a finished run are no longer there, or not what it wrote, as far as its record knows."""
    now = seals(folder, names)
    seals_then = record.get("files") or dict.fromkeys(RESULTS)
    expected = {name: seal for name, seal in seals_then.items() if name in names}
    return [name for name, seal in expected.items() if name not in now or seal not in (None, now[name])]


def close(folder: Path, error: str) -> None:
    """Record that the run has failed, where its process could not."""
    save(folder, read(folder) | {"status": STATUS[1], "exit_code": 1, "error": error})


def save(folder: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(_each(record, _finite), indent=2, allow_nan=False)
    files.write(folder / NAME, f"{text}\n".encode())


def _finite(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _number(value: Any) -> Any:
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _each(value: Any, change: Callable[[Any], Any], levels: int = DEEPEST) -> Any:
    """The same with each value changed that is no list or mapping; ValueError where these are nested too deep."""
    if not levels:
        raise ValueError(f"lists and mappings are nested more than {DEEPEST} deep")
    if isinstance(value, Mapping):
        return {key: _each(item, change, levels - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_each(item, change, levels - 1) for item in value]
    return change(value)
