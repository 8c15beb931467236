"""Weights & Biases: offline in the run's own folder, or at a server."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fl_bench.errors import RunError
from fl_bench.observers.tracker import Tracker, identity, need, title

# Nothing is printed, and nothing looked at but what the run gives.
QUIET: dict[str, Any] = {
    "silent": True, "console": "off", "disable_git": True, "disable_code": True, "symlink": False,
    "x_disable_stats": True, "x_disable_meta": True, "x_disable_machine_info": True, "x_save_requirements": False,
}  # fmt: skip


class Wandb(Tracker):
    """Metrics by the columns of metrics.csv with the round as step, and the config."""

    def __init__(self, project: str, mode: Literal["offline", "online"]) -> None:
        need("wandb")
        self.project = project
        self.mode = mode

    def begin(self, run: Mapping[str, Any], folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        hook = sys.excepthook
        # By `setup`, not by `init`: what wandb does before a run begins asks its server otherwise, offline too.
        wandb.setup(wandb.Settings(mode=self.mode, **QUIET))
        if self.mode == "online" and not wandb.login(prompt=False):
            raise RunError("tracker.mode=online: nobody is logged in; say `wandb login` first, or take mode=offline")
        if (before := folder / "wandb").exists():
            shutil.rmtree(before)
        self.run = wandb.init(
            project=self.project, dir=folder, id=identity(folder), name=title(folder), config=dict(run["config"])
        )
        sys.excepthook = hook  # wandb has put one of its own there

    def log(self, round: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=round)

    def end(self, status: str) -> None:
        import wandb

        if hasattr(self, "run"):
            self.run.finish(exit_code=0 if status == "done" else 1)
        wandb.teardown()  # ends its process
