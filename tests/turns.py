"""Turns of a client on a model and batches that a test makes, without a run around them."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import torch
from torch import nn

from fl_bench.data.arrays import FederatedData
from fl_bench.federation.parameters import FlatModel
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Batch, Metrics, Task, batch_mean


class Toy(Task):
    """Mean squared error of whatever model a test makes: batches are {"x": ..., "y": ...}."""

    def model(self, data: FederatedData) -> nn.Module:
        raise NotImplementedError("tests give the model")

    def objective(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        loss = (model(batch["x"]) - batch["y"]).square().mean()
        return loss, {"loss": batch_mean(loss, len(batch["x"]))}


LOCAL: dict[str, Any] = {
    "steps": None, "epochs": 1, "batch_size": 1, "optimizer": {"name": "SGD"}, "decay": "all", "clip_norm": None,
    "accumulate": 1, "precision": "float32",
}  # fmt: skip


def make_turn(model: nn.Module, batches: Sequence[Batch] = (), start: torch.Tensor | None = None, **given: Any) -> Turn:
    """A turn of client 0 on `batches`, over and over, by SGD; the model is where it is, `start` there or elsewhere."""
    flat = FlatModel(model, list(model.state_dict()), "cpu")
    options: dict[str, Any] = {
        "local": LOCAL | {"steps": len(batches), "lr": 0.1},
        "config": {},
        "stream": lambda purpose: cycle(batches),
        "batches_per_epoch": len(batches),
        "examples": lambda places: {},
    }
    return Turn(
        client=0, round=1, task=Toy(), model=model, parameters=flat.vector, split=flat.layout.split,
        start=flat.vector.clone() if start is None else start, **(options | given),
    )  # fmt: skip
