"""What the sites say of training rows that only they have, and what a driver without them opens.

Its folder is like that of any run. But its training rows are two that nobody holds, on which the parts of an experiment
are tried out, and its partition has sizes only; with masks 1 stands for some.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fl_bench.data import facts
from fl_bench.data.arrays import FederatedData, Ragged
from fl_bench.data.partition import NOBODY, UNSEEN, Partition
from fl_bench.deployment.shares import Form, Holding, beside, form_of, take, told
from fl_bench.deployment.welcome import Welcome
from fl_bench.errors import ConfigError, Damaged, note
from fl_bench.storage.files import write

NAME = "told.json"
EXAMPLES = 2  # training rows of the driver: vectorized.py tries two
NOTHING = Holding(0, 0, "")


@dataclass(frozen=True)
class Told:
    """What all the sites' rows are like, and by client what it holds, of those who hold something."""

    form: Form
    clients: Mapping[int, Holding]

    @classmethod
    def by(cls, welcomes: Mapping[str, Welcome]) -> "Told":
        """What these sites say. Raises ConfigError where two do not fit together."""
        first, form = next((name, welcome.form) for name, welcome in welcomes.items())
        clients: dict[int, Holding] = {}
        for name, welcome in welcomes.items():
            for key, ours, theirs in zip(Form._fields, form, welcome.form, strict=True):
                if ours != theirs:
                    raise ConfigError(f"{name}: its {key}: {theirs}; those of {first}: {ours}")
            if twice := clients.keys() & welcome.clients.keys():
                raise ConfigError(f"{name}: has client {min(twice)}, as another site has")
            clients |= welcome.clients
        return cls(form, dict(sorted(clients.items())))

    @classmethod
    def open(cls, folder: Path) -> "Told | None":
        """What `save` has written, to a prepared folder or a run's; None where there is no such file, or Damaged."""
        file = folder / NAME
        try:
            return cls(*told(*json.loads(file.read_text()))) if file.exists() else None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{file}: is damaged: {error}") from None

    @property
    def num_clients(self) -> int:
        """With those who never train."""
        return self.form.num_clients + self.form.num_unseen

    def save(self, data: FederatedData | None, folder: Path) -> None:
        """Write what a driver opens to `folder`, where `data` are loaded already, of which the test rows are used.

        Raises:
            ConfigError: where the data are not like the sites' rows.
        """
        if data is not None:
            _refuse_others(form_of(data.test) | {"classes": list(data.classes)}, self.form)
        files = beside(folder) if data is not None else {facts.NAME: self.form.files.get(facts.NAME)}
        for name, seal in self.form.files.items():
            if files.get(name) != seal:
                raise ConfigError(f"data: the sites have a {name} beside their rows, which is not here, or another")
        for file in folder.glob("train.*"):
            file.unlink()
        test = data.test if data is not None else {}
        train = {name: _examples(test.get(name), *about) for name, about in self.form.columns.items()}
        FederatedData(train, test, tuple(self.form.classes)).save(folder)
        first = self.form.num_clients
        self._sizes(range(first)).save(folder)
        if first < self.num_clients:
            self._sizes(range(first, self.num_clients)).save(folder, UNSEEN)
        if lacking := [client for client in range(self.num_clients) if client not in self.clients]:
            note(f"partition: no site that is there has client {', '.join(map(str, lacking[:10]))}: it holds no sample")
        write(folder / NAME, json.dumps([self.form, self.clients]).encode())

    def _sizes(self, clients: range) -> Partition:
        """How much these clients hold."""
        held = np.array([self.clients.get(client, NOTHING)[:2] for client in clients], np.int64).reshape(-1, 2)
        starts = np.concatenate(([0], np.cumsum(held.sum(axis=1))))
        return Partition(NOBODY, starts, starts[:-1] + held[:, 0])


def _refuse_others(here: Mapping[str, Any], form: Form) -> None:
    """Raise ConfigError where columns or classes of the driver's own are not as those of the sites."""
    there = {**form.columns, "classes": form.classes}
    for name, about in here.items():
        if about != there.get(name):
            ours, theirs = (" ".join(map(str, found)) for found in (about, there.get(name, ["none"])))
            raise ConfigError(f"data: {name} of the test rows here: {ours}; of the sites' rows: {theirs}")


def _examples(tested: Any, kind: str, shape: list[int] | None) -> Any:
    """The first of the test rows' column, or of none, zeros."""
    if tested is not None and len(tested):
        return take(tested, np.arange(EXAMPLES) % len(tested))
    if shape is None:
        return Ragged(np.zeros(EXAMPLES, kind), np.arange(EXAMPLES + 1))
    return np.zeros((EXAMPLES, *shape), kind)
