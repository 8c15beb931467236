"""The cells of a sweep: each a run with a folder of its own, which a sweep that grows finds again."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.config.changes import HORIZONS, complete, identity, refuse_changes, with_horizons
from fl_bench.config.origin import Origin
from fl_bench.errors import ConfigError, Damaged
from fl_bench.runs.begin import Start
from fl_bench.storage import run_json

LONGEST = 150  # characters of a folder's name; file systems take 255 bytes


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: what `launch` takes."""

    cfg: DictConfig
    folder: Path
    start: Start
    origin: Origin


def folder_name(text: str) -> str:
    """What Hydra calls a cell, as the name of one folder.

    >>> folder_name("data.root=/mnt/a,seed=0")
    'data.root=_mnt_a,seed=0'
    """
    name = re.sub(r"[/\x00-\x1f]", "_", text).lstrip(".") or "_"
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def placed(configs: Sequence[DictConfig], names: Sequence[str], sweep: Path) -> list[str]:
    """The folders' names below `sweep`, for cells of these configs that would like these names.

    A cell has the folder of the run that it is, whatever that is called: a cell is what its config says, not what
    number it has. Where its name is taken by another, it has a number behind it.
    """
    found = _runs(sweep)
    known = {name: _key(record) for name, record in found.items()}  # each is composed for it
    keys = [(identity(cfg), cfg.num_rounds) for cfg in configs]
    taken: dict[str, int] = {}  # the number of the cell, by the name of its folder
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        if known.get(name) == key:
            taken.setdefault(name, number)
    there = {number: name for name, number in taken.items()}
    for number, (key, wanted) in enumerate(zip(keys, names, strict=True)):
        if number in there:
            continue
        same = [name for name, other in known.items() if other == key and name not in taken]
        count, name = 1, wanted
        while not same and (name in taken or (name in found and not _goes_on(found[name], configs[number]))):
            count += 1
            name = f"{wanted}_{count}"
        there[number] = (same or [name])[0]
        taken[there[number]] = number
    return [there[number] for number in range(len(configs))]


def _runs(sweep: Path) -> dict[str, Mapping[str, Any]]:
    """The records of the runs in the folder of a sweep, by the names of their folders."""
    found: dict[str, Mapping[str, Any]] = {}
    for file in sorted(sweep.glob(f"*/{run_json.NAME}")):
        try:
            if "config" in (record := run_json.read(file.parent)):
                found[file.parent.name] = record
        except Damaged:
            continue  # the run itself will say so, where a cell has its name
    return found


def _key(record: Mapping[str, Any]) -> tuple[str, int]:
    cfg = OmegaConf.create(complete(record["config"], record.get("choices")))
    return identity(cfg), cfg.num_rounds


def _goes_on(record: Mapping[str, Any], cfg: DictConfig) -> bool:
    """Whether this run could go on with that config, such as one with more rounds; its horizons would stay."""
    named = [key for key in HORIZONS if OmegaConf.select(cfg, key) != cfg.num_rounds]
    try:
        cfg = with_horizons(cfg, record["config"], record.get("choices"), named)
        refuse_changes(record["config"], cfg, 0, record.get("choices"))
    except ConfigError:
        return False
    return True
