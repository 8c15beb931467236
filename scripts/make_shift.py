"""Make docs/images/shift.png: one training image as clients have it with each shift, and as augmentations change it.

.venv/bin/python scripts/make_shift.py
"""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from sweeps import HERE

from fl_bench.build import build, call, find_target
from fl_bench.config.schema import CONF
from fl_bench.data import sources
from fl_bench.data.augment import Augment
from fl_bench.data.partition import Partition

ROW, CLIENTS = 1203, 6
SHIFTS, AUGMENTS = ("noise", "rotation", "colour", "blur"), ("flip_crop", "color", "randaugment")


def main() -> None:
    """Draw them."""
    images = np.repeat(sources.digits_on_photos(copies=1).train["x"][ROW : ROW + 1], CLIENTS, axis=0)
    partition = Partition.of(np.arange(CLIENTS), CLIENTS, 0.0, np.random.default_rng(0))
    given: dict[str, Any] = {"columns": {"x": images}, "partition": partition, "classes": sources.DIGITS, "seed": 0}
    rows = {}
    for name in SHIFTS:
        node = OmegaConf.create({"shift": OmegaConf.load(CONF / "shift" / f"{name}.yaml")}).shift
        rows[f"shift={name}"] = call(find_target(node), node, **given)["x"]
    for name in AUGMENTS:
        augment = build(
            OmegaConf.create({"augment": OmegaConf.load(CONF / "augment" / f"{name}.yaml")}).augment, Augment
        )
        chances = augment.chances(0, "batches", 1, 0)(CLIENTS)
        rows[f"augment={name}"] = augment(torch.from_numpy(images), torch.from_numpy(chances)).numpy()
    figure = Figure(figsize=(CLIENTS + 1.5, len(rows)), layout="constrained")
    for line, (name, seen) in zip(figure.subplots(len(rows), CLIENTS), rows.items(), strict=True):
        for k, axes in enumerate(line):
            axes.imshow(seen[k].transpose(1, 2, 0))
            axes.set(xticks=[], yticks=[], xlabel=f"client {k}" if name == "shift=blur" else "")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(HERE / "docs" / "images" / "shift.png", dpi=64)


if __name__ == "__main__":
    main()
