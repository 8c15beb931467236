"""How large a model is, and how much a step computes."""

import copy
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fl_bench.federation.local import Trainer
from fl_bench.storage import files

PARTS = "parts.csv"


def size_of(trainer: Trainer, batch_size: int) -> dict[str, int]:
    """`parameters` of the whole model, and `flops_per_step` of one step on a batch, forward and backward.

    The latter as torch's counter has it: two for a multiplication with its addition, and nothing but products of
    matrices and convolutions. It is left out where a step is not one of one loss, or cannot be counted.
    """
    model = trainer.flat.model
    sizes = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    flops = _flops(trainer, model, batch_size) if trainer.task.one_loss else None
    return sizes if flops is None else sizes | {"flops_per_step": flops}


def write_parts(trainer: Trainer, folder: Path) -> None:
    """parts.csv, where the server trains a part of the model: the model's modules, their numbers, and who has them."""
    if not (layout := trainer.flat.layout).served:
        return
    rows: list[tuple[Any, ...]] = []
    for name, module in trainer.flat.model.named_children():
        inside = [key for key in layout.shapes if key.startswith(f"{name}.")]
        where = "" if not inside else "server" if inside[0] in layout.served else "client"
        rows.append((name, type(module).__name__, sum(prod(layout.shapes[key]) for key in inside), where))
    files.write(folder / PARTS, files.csv_of([("module", "kind", "numbers", "at"), *rows]))


def _flops(trainer: Trainer, model: nn.Module, batch_size: int) -> int | None:
    """Counted on tensors that have shapes only, so that nothing is computed; None where a task looks at numbers."""
    from torch.utils.flop_counter import FlopCounterMode

    rows = np.linspace(0, trainer.data.num_samples - 1, batch_size).astype(np.int64)  # texts differ in length
    batch = {name: column.to("meta") for name, column in trainer.task.gather(trainer.data.train, rows, "cpu").items()}
    empty: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    empty |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}  # which the copy has, instead of copies
    try:
        with FlopCounterMode(display=False) as counter:
            loss: Any = trainer.task.objective(copy.deepcopy(model, empty).train(), batch)[0]
            loss.backward()
    except (RuntimeError, TypeError, ValueError):  # of torch, where a tensor without numbers cannot do
        return None
    return int(counter.get_total_flops())
