"""What a site says of itself when it is greeted, and what of it does not fit the run."""

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fl_bench.deployment.shares import Form, Holding, told
from fl_bench.federation.local import Trainer
from fl_bench.machine import describe, package
from fl_bench.storage.files import digest

ALIKE = ("python", "torch", "numpy")  # versions that may change the last bits


@dataclass(frozen=True)
class Welcome:
    """A site, or the driver itself, as it is at the beginning of a conversation."""

    session: str
    code: str  # version and digest of the package
    versions: Mapping[str, str]
    processor: str
    threads: int  # of torch
    layout: str  # digest of what travels: names and shapes
    model: str  # digest of the model before it has been trained
    clients: Mapping[int, Holding]  # with masks only those who train, and nobody is told how many rows they have
    form: Form  # of all training rows

    @classmethod
    def of(cls, trainer: Trainer, clients: Mapping[int, Holding], session: str = "") -> "Welcome":
        import torch

        facts = describe()
        tensors = trainer.flat.model.state_dict()
        shapes = json.dumps([list(trainer.layout.shapes.items()), trainer.device == "cuda"])
        values = [part for name, value in tensors.items() for part in (name.encode(), value.cpu().numpy().tobytes())]
        return cls(
            session,
            package()[0],
            {name: facts["versions"][name] for name in ALIKE},
            f"{facts['hardware']['processor']} {platform.machine()}",
            torch.get_num_threads(),
            digest(shapes.encode()),
            digest(*values),
            {client: held.hidden for client, held in clients.items() if held.train} if trainer.masked else clients,
            Form.of(trainer.data.folder),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Welcome":
        """Raises ValueError, TypeError or AttributeError where a site sends something else."""
        fields: dict[str, Any] = json.loads(text)
        form, clients = told(fields.pop("form"), fields.pop("clients"))
        return cls(**fields, clients=clients, form=form)

    def differences(self, ours: "Welcome") -> Iterator[str]:
        """Why a run with this site and our part of it cannot be: what its clients hold, or make of the config."""
        if self.code != ours.code:
            yield f"its fl-bench is {self.code}, and that of the command is {ours.code}"
        if self.layout != ours.layout:
            yield "the model of this config has other tensors there, or it is on a GPU at one side only"
        for key, theirs, here in zip(Form._fields, self.form, ours.form, strict=True):
            if theirs != here:
                yield f"its {key} are others than in this run: {theirs}, and here {here}"
        for client, held in self.clients.items():
            if (wanted := ours.clients.get(client)) is None:
                yield f"it has client {client}, which holds nothing in this run"
            elif held[:2] != wanted[:2]:
                yield f"its client {client} has {_rows(held)}, and in this run {_rows(wanted)}"
            elif held.digest != wanted.digest:
                yield f"the rows of its client {client} are others than in this run, or in another order"

    def oddities(self, ours: "Welcome") -> Iterator[str]:
        """Why the last bits may differ from a run on one machine."""
        for name, version in self.versions.items():
            if version != ours.versions.get(name):
                yield f"{name} is {version}, and here {ours.versions.get(name)}"
        if self.processor != ours.processor:
            yield f"its processor is {self.processor.strip()}"
        if self.threads != ours.threads:
            yield f"torch has {self.threads} threads, and here {ours.threads}"
        if self.model != ours.model:
            yield "its untrained model has other values"


def _rows(held: Holding) -> str:
    return f"{held.train} rows to train on and {held.heldout} held out"
