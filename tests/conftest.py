"""How tests run experiments: composed as shipped, made small, in this process or through the real command."""

import csv
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from fl_bench.config.rules import validate
from fl_bench.config.schema import CONF
from fl_bench.data.arrays import FederatedData
from fl_bench.federation.parameters import FlatModel
from fl_bench.network.clock import Network
from fl_bench.runs.execute import execute
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Batch, Metrics, Task, batch_mean

TEMPORARY = Path(tempfile.gettempdir())
DETERMINISTIC = ("metrics.csv", "clients.csv", "partition.csv", "model.safetensors")

torch.set_num_threads(1)


def compose(*overrides: str) -> DictConfig:
    """The config as the command line would make it, on the engine of this process and without figures."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", ["engine=inline", "figures=false", *overrides])
    validate(cfg)
    return cfg


def digests(folder: Path) -> dict[str, str]:
    files = [*(folder / name for name in DETERMINISTIC), *folder.glob("state/*/*")]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def table(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a run's CSV file."""
    return list(csv.DictReader((folder / f"{name}.csv").open()))


TRACE_COLUMNS = "client,seconds_per_step,bytes_per_second_up,bytes_per_second_down,available_from,available_to\n"


def make_network(tmp_path: Path, rows: str, steps: Sequence[int], num_bytes: tuple[int, int], **given: Any) -> Network:
    """Clients on the devices of these rows of traces; `num_bytes` go down and up."""
    file = tmp_path / "traces.csv"
    file.write_text(TRACE_COLUMNS + rows)
    options = {"dropout": 0.0, "deadline_s": None, "over_select": 1.0, "spread": 0.0, "traces": str(file), "seed": 0}
    speeds = {"seconds_per_step": 1.0, "bytes_per_second_up": 1.0, "bytes_per_second_down": 1.0}
    down, up = num_bytes
    return Network(**(options | speeds | given), steps=np.array(steps), bytes_down=down, bytes_up=up)


class Toy(Task):
    """Mean squared error of whatever model a test makes: batches are {"x": ..., "y": ...}."""

    def model(self, data: FederatedData) -> nn.Module:
        raise NotImplementedError("tests give the model")

    def objective(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        loss = (model(batch["x"]) - batch["y"]).square().mean()
        return loss, {"loss": batch_mean(loss, len(batch["x"]))}


def make_turn(model: nn.Module, batches: Sequence[Batch] = (), start: torch.Tensor | None = None, **given: Any) -> Turn:
    """A turn of client 0 on `batches`, over and over, by SGD; the model is where it is, `start` there or elsewhere."""
    flat = FlatModel(model, list(model.state_dict()), "cpu")
    options = {
        "local": {"steps": len(batches), "epochs": 1, "batch_size": 1, "lr": 0.1, "optimizer": {"name": "SGD"}},
        "config": {},
        "stream": lambda purpose: cycle(batches),
        "batches_per_epoch": len(batches),
    }
    return Turn(
        client=0, round=1, task=Toy(), model=model, parameters=flat.vector, split=flat.layout.split,
        start=flat.vector.clone() if start is None else start, **(options | given),
    )  # fmt: skip


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Path]:
    """Run an experiment in this process and return its folder."""
    count = iter(range(1000))

    def start(*overrides: str, exit_code: int = 0) -> Path:
        folder, scratch = (tmp_path / f"{kind}{next(count)}" for kind in ("run", "scratch"))
        folder.mkdir()
        scratch.mkdir()
        assert execute(compose(*overrides), folder, scratch) == exit_code
        return folder

    return start


def fl_bench(*words: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The console command, for real, in a folder whose modules can be imported."""
    command = [str(Path(sys.executable).with_name("fl-bench")), *words]
    environment = os.environ | {"PYTHONPATH": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def leftovers(folder: Path) -> list[str]:
    """Processes that still run in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(entry).startswith(str(folder)):
                found.append((entry.parent / "cmdline").read_text())
        except OSError:  # it has just ended
            continue
    return found


def traces(folder: Path) -> set[str]:
    """What of ours could be left behind: processes in `folder`, shared memory, temporary folders that nobody holds."""
    shared = {str(file) for file in Path("/dev/shm").glob("*")}
    return shared | set(leftovers(folder)) | {str(file) for file in TEMPORARY.glob("fl-bench-*/lock") if is_free(file)}


def is_free(lock: Path) -> bool:
    """Whether the run that made it is over."""
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has it, or it is just going
        return False
    return True


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """After every test; the system may take a moment to end what was killed."""
    before = traces(tmp_path)
    yield
    deadline = time.monotonic() + 10
    while (left := traces(tmp_path) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
