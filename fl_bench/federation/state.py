"""What clients keep between rounds: tensors on disk, so that memory does not grow with the number of clients.

A client's state after round r is the file `<client>/<r>.safetensors`. Whoever takes its turn in round r reads the
newest version from before r, so that a round can be repeated; versions that are no longer needed go at `commit`.
"""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]


class ClientStates:
    """The states of all clients in one folder, which every worker can reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self) -> None:
        """Forget what an earlier run in the same folder has left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self, client: int, before: int) -> State:
        """The client's state as it was before round `before`; empty where it has never kept anything."""
        rounds = [round for round in self._rounds(client) if round < before]
        return load_file(self._file(client, max(rounds))) if rounds else {}

    def write(self, client: int, round: int, state: State) -> None:
        """Keep a client's state after `round`: all of it, or after a crash nothing."""
        if not state:
            return
        file = self._file(client, round)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp")
        save_file(state, temporary)
        os.replace(temporary, file)

    def commit(self, round: int, trained: Collection[int], drawn: Collection[int]) -> None:
        """End a round: those who `trained` have new states; of the others who were `drawn`, the old ones stand."""
        for client in drawn:
            for version in self._rounds(client):
                if (version < round) if client in trained else (version == round):
                    self._file(client, version).unlink()

    def _file(self, client: int, round: int) -> Path:
        return self.folder / str(client) / f"{round}.safetensors"

    def _rounds(self, client: int) -> list[int]:
        return sorted(int(file.stem) for file in (self.folder / str(client)).glob("*.safetensors"))
