"""What clients keep between rounds: tensors on disk, so that memory does not grow with the number of clients.

A client's state after round r is the file `<client>/<r>.safetensors`. Whoever takes its turn in round r reads the
newest version from before r, so that a round can be repeated. A version goes when there is a newer one and no
checkpoint needs it.

Each file says whose state it is: of which client, after which round, of which run. Another one, put in its place, is
refused.
"""

import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fl_bench.errors import ConfigError, Damaged
from fl_bench.storage.folder import OURS, is_number
from fl_bench.storage.sealed import seal, unseal

State = dict[str, Tensor]
Versions = dict[int, int]  # by client: the round of its state
Files = dict[str, NDArray[np.uint8]]  # by `<client>/<round>`: the bytes of the file

KEPT = 2  # checkpoints: the last but one is for when the last is damaged


class ClientStates:
    """The states of all clients in one folder. A worker that does not reach it has a folder of its own, and is sent
    those that it needs.
    """

    def __init__(self, folder: Path, run: str = "") -> None:
        self.folder = folder
        self.run = run  # see config.changes.identity; "" of runs from before there was one
        self.versions: Versions = {}  # the newest; kept by the server only
        self.pinned: list[Versions] = []  # of each checkpoint that there is, the oldest first

    def read(self, client: int, before: int) -> State:
        """The client's state as it was before round `before`; empty where it has never kept anything."""
        newest = self._newest(client, before)
        return {} if newest is None else self._unseal(client, newest)

    def write(self, client: int, round: int, state: State) -> None:
        """Keep a client's state after `round`: all of it, or after a crash nothing."""
        if not state:
            return
        file = self._file(client, round)
        file.parent.mkdir(parents=True, exist_ok=True)
        seal(file, state, self._facts(client, round))

    def pack(self, clients: Iterable[int], before: int) -> Files:
        """What `read` would read of each of these clients, as it lies on disk."""
        newest = {client: self._newest(client, before) for client in clients}
        return {f"{c}/{r}": np.fromfile(self._file(c, r), np.uint8) for c, r in newest.items() if r is not None}

    def unpack(self, files: Files, write: Callable[[Path, memoryview], object]) -> None:
        """Have here what another folder had; `write` says how safely."""
        for name, content in files.items():
            client, round = map(int, name.split("/"))
            file = self._file(client, round)
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, content.data)

    def commit(self, round: int, trained: Collection[int], drawn: Collection[int]) -> None:
        """End a round: those who `trained` have new states; of the others who were `drawn`, the old ones stand."""
        for client in drawn:
            file = self._file(client, round)
            if client not in trained:
                file.unlink(missing_ok=True)
            elif file.exists():
                old = self.versions.get(client)
                if old is not None and all(pinned.get(client) != old for pinned in self.pinned):
                    self._file(client, old).unlink()
                self.versions[client] = round

    def pin(self) -> None:
        """Keep what there is now for a checkpoint, of which only the last KEPT matter from now on."""
        self.pinned.append(dict(self.versions))
        if len(self.pinned) > KEPT:
            for client, version in self.pinned.pop(0).items() - self.pinned[0].items():
                self._file(client, version).unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        """For a checkpoint that is about to be pinned: what it needs, and what the one before needs."""
        return {"versions": [np.array(list(v.items()), np.int64) for v in (*self.pinned[1 - KEPT :], self.versions)]}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take these checkpoints' versions for the newest. Raises Damaged where something is not there."""
        self._know(state)
        if self.versions and "place" in state:
            wish = "what this run's clients keep lies at their sites; go on with engine=deployment"
            raise ConfigError(f"engine: {wish}")
        for client, version in self.versions.items():
            self._unseal(client, version)

    def needed(self, client: int) -> list[int]:
        """The rounds after which this client's states are still needed, rising: the newest, and for checkpoints."""
        return sorted({known[client] for known in (self.versions, *self.pinned) if client in known})

    def keep(self, client: int, needed: Sequence[int]) -> None:
        """Leave of a client's states those after the rounds that are `needed`. Raises Damaged: the last is gone."""
        if needed and not self._file(client, needed[-1]).exists():
            raise Damaged(f"{self._file(client, needed[-1])}: is not there, and its client goes on from it")
        for file in (self.folder / str(client)).glob("*.safetensors"):
            if is_number(file.stem) and int(file.stem) not in needed:
                file.unlink()

    def copied(self, needed: Mapping[int, Sequence[int]], folder: Path) -> "ClientStates":
        """The last state that is `needed` of each of these clients, in a new `folder`. Raises Damaged: one is gone."""
        copies = ClientStates(folder, self.run)
        for client, round in ((client, rounds[-1]) for client, rounds in needed.items() if rounds):
            file, copy = self._file(client, round), copies._file(client, round)
            if not file.exists():
                raise Damaged(f"{file}: is not there any more: nothing has needed it since")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        return copies

    def settle(self) -> None:
        """Leave no state but what the checkpoints need."""
        needed = {self._file(client, version) for pinned in self.pinned for client, version in pinned.items()}
        for file in self.folder.glob("*/*.safetensors*"):
            if file not in needed and OURS.fullmatch(f"state/{file.parent.name}/{file.name}"):
                file.unlink()

    def _know(self, state: Mapping[str, Any]) -> None:
        self.pinned = [dict(table.reshape(-1, 2).tolist()) for table in state["versions"]]
        self.versions = dict(self.pinned[-1])

    def _unseal(self, client: int, round: int) -> State:
        state, facts = unseal(self._file(client, round))
        if facts != self._facts(client, round) and (self.run or facts is not None):
            raise Damaged(f"{self._file(client, round)}: is the state of another client, round or run")
        return state

    def _facts(self, client: int, round: int) -> dict[str, Any]:
        return {"client": client, "round": round, "run": self.run}

    def _file(self, client: int, round: int) -> Path:
        return self.folder / str(client) / f"{round}.safetensors"

    def _newest(self, client: int, before: int) -> int | None:
        """The last round before `before` after which the client's state was kept."""
        files = (self.folder / str(client)).glob("*.safetensors")
        rounds = [int(file.stem) for file in files if is_number(file.stem)]
        return max((round for round in rounds if round < before), default=None)


class StatesElsewhere(ClientStates):
    """The server's register of states that lie where their clients are, who delete them when they are told."""

    def __init__(self, folder: Path, run: str = "") -> None:
        super().__init__(folder, run)
        self.place = secrets.token_hex(16)  # the name by which the sites know this run again
        self.aside = False  # whether turns are only looked at, so that the sites keep what they have as it is

    def commit(self, round: int, trained: Collection[int], drawn: Collection[int]) -> None:
        self.versions |= dict.fromkeys(trained, round)

    def pin(self) -> None:
        self.pinned = [*self.pinned, dict(self.versions)][-KEPT:]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"place": self.place}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._know(state)
        if self.versions and "place" not in state:
            wish = "the states of this run's clients lie in its folder; go on with an engine that reads them"
            raise ConfigError(f"engine=deployment: {wish}")
        self.place = state.get("place", self.place)

    def settle(self) -> None:
        """Nothing of it is here."""
