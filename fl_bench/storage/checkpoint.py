"""What a run needs to go on after a round: one file in the run's folder, beside the clients' states and the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from fl_bench.config.changes import refuse_changes
from fl_bench.config.origin import UNKNOWN, Origin
from fl_bench.errors import Damaged, in_one_line
from fl_bench.storage import snapshot
from fl_bench.storage.folder import clear, is_number
from fl_bench.storage.run_json import check_config
from fl_bench.storage.sealed import seal, unseal
from fl_bench.storage.states import KEPT, ClientStates
from fl_bench.storage.tables import Tables

MODEL = "model"
FACTS = {"round": int, "config": dict, "parts": dict, "run": str}  # in the note of its file


@dataclass(frozen=True)
class Checkpoint:
    """A run as it was at the end of `round`."""

    round: int
    config: dict[str, Any]
    parts: dict[str, Any]
    tensors: snapshot.Tensors
    file: Path
    run: str = ""  # see config.changes.identity

    @property
    def vector(self) -> NDArray[np.float32]:
        """The server's payload [P], or the content of an opaque model, uint8 [any length]."""
        return self.tensors[MODEL].numpy()

    def put_back(self, parts: Mapping[str, Any]) -> None:
        """Restore these parts, by name. Raises Damaged where what was kept of one does not fit it."""
        for name, part in parts.items():
            try:
                snapshot.put_back(self.parts[name], self.tensors, part, name)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
                raise Damaged(f"{self.file}: is damaged: {name} cannot be put back: {in_one_line(error)}") from error


class Store:
    """What a run keeps in its folder: its tables, its clients' states, and checkpoints, `every` so many rounds."""

    def __init__(self, folder: Path, every: int, run: str = "") -> None:
        self.tables = Tables(folder)
        self.states = ClientStates(folder / "state", run)
        self.folder = folder
        self.every = every  # 0: never
        self._whole: Sequence[int] = ()  # the checkpoints that were not damaged when one was restored

    def clear(self) -> None:
        """Delete what an earlier run in the same folder has left, but for its run.json."""
        clear(self.folder)

    def due(self, round: int, num_rounds: int) -> bool:
        return bool(self.every) and (round % self.every == 0 or round == num_rounds)

    def save(self, round: int, vector: NDArray[np.float32], config: Any, parts: Mapping[str, Any]) -> None:
        """Make a checkpoint of what `parts` know, by name, and of all that is kept here; the last KEPT stay."""
        self.tables.sync()
        tensors: snapshot.Tensors = {MODEL: torch.from_numpy(vector)}
        taken = {name: snapshot.take(part, tensors, name) for name, part in {**self._own, **parts}.items()}
        self._checkpoints.mkdir(exist_ok=True)
        seal(self._file(round), tensors, {"round": round, "config": config, "parts": taken, "run": self.states.run})
        self.keep(self.rounds()[-KEPT:])
        self.states.pin()

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, rising."""
        files = self._checkpoints.glob("*.safetensors")
        return sorted(int(file.stem) for file in files if is_number(file.stem) and file.is_file())

    def read(self, round: int) -> Checkpoint:
        """The checkpoint of a round; raises Damaged."""
        file = self._file(round)
        tensors, facts = unseal(file)
        known: dict[str, Any] = {"run": ""} | facts if isinstance(facts, dict) else {}
        fits = {name: type(value) for name, value in known.items()} == FACTS and known["round"] == round
        model = tensors.get(MODEL, torch.empty(()))
        if not fits or model.dtype not in (torch.float32, torch.uint8) or model.ndim != 1:
            raise Damaged(f"{file}: is no checkpoint of round {round}")
        check_config(file, known["config"])
        return Checkpoint(**known, tensors=tensors, file=file)

    def restore(self, cfg: DictConfig, origin: Origin = UNKNOWN) -> Checkpoint | None:
        """The newest whole checkpoint, whose tables and states are then known here; None where there never was one.

        Nothing changes on disk before `settle`. Raises Damaged, which names the first file in the way, where there is
        none that is whole, and ConfigError where `cfg` would have made other rounds.
        """
        trouble: Damaged | None = None
        candidates = self.rounds()
        while candidates:
            try:
                found = self.read(candidates[-1])
                refuse_changes(found.config, cfg, found.round, origin.choices)
                self.states.run = found.run
                found.put_back(self._own)
            except Damaged as error:
                trouble = trouble or error
                del candidates[-1]
                continue
            self._whole = candidates
            return found
        if trouble:
            raise trouble
        return None

    def settle(self) -> None:
        """Leave nothing that came after the checkpoint which was restored: later ones, rows and states go."""
        self.tables.settle()
        self.states.settle()
        self.keep(self._whole[-KEPT:])

    def keep(self, wanted: Sequence[int]) -> None:
        """Delete all checkpoints but those of these rounds."""
        for round in self.rounds():
            if round not in wanted:
                self._file(round).unlink()

    def _file(self, round: int) -> Path:
        return self._checkpoints / f"{round}.safetensors"

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def _own(self) -> dict[str, Any]:
        return {"recorder": self.tables, "states": self.states}
