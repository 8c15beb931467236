"""What happens at a client: local training and evaluation, on whichever worker has the client's turn."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from fl_bench import rng
from fl_bench.build import build
from fl_bench.data.arrays import Columns, FederatedData
from fl_bench.data.partition import Partition
from fl_bench.federation.parameters import FlatModel
from fl_bench.federation.update import LARGEST
from fl_bench.mean import Mean, merge
from fl_bench.strategies.base import LocalAlgorithm, Turn
from fl_bench.tasks.base import Task, gather

CONFIG = "config.yaml"  # the resolved config, in the folder that the workers read


class Diverged(FloatingPointError):
    """A client's training left the range of numbers."""


@dataclass
class Trained:
    """What a client reports after training."""

    parameters: NDArray[np.float32]  # [P]
    num_examples: int
    metrics: dict[str, Mean]
    reply: dict[str, float]


class Trainer:
    """One process's model and data: any client's turn can be taken here. `folder` holds the config and the arrays."""

    def __init__(self, folder: Path) -> None:
        cfg = OmegaConf.load(folder / CONFIG)
        assert isinstance(cfg, DictConfig)
        torch.set_num_threads(cfg.engine.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)  # some CUDA kernels have no deterministic form
        self.seed: int = cfg.seed
        self.local: Mapping[str, Any] = OmegaConf.to_container(cfg.local)  # type: ignore[assignment]
        self.batch_size: int = cfg.evaluate.batch_size
        self.device = "cuda" if cfg.engine.client_resources.num_gpus else "cpu"
        self.data = FederatedData.open(folder)
        self.partition = Partition.open(folder)
        self.task: Task = build(cfg.task)
        self.algorithm: LocalAlgorithm = build(cfg.strategy.client)
        torch.manual_seed(rng.integer(self.seed, "model"))
        model = self.task.model(self.data)
        self.flat = FlatModel(model, self.task.shared(model), self.device)

    def train(self, client: int, round: int, start: NDArray[np.float32], config: Mapping[str, Any]) -> Trained:
        """One client's turn from the parameters `start` [P]. Raises Diverged when its numbers are not finite."""
        rows = self.partition.train_rows(client)
        flat = self.flat
        origin = torch.from_numpy(start).to(self.device)
        flat.reset(origin)
        torch.manual_seed(rng.integer(self.seed, "torch", round, client))
        turn = Turn(client, round, flat.model, flat.vector, origin, flat.layout.split, config)
        optimizer = self.task.optimizer(flat.model, self.local)
        flat.model.train()
        self.algorithm.begin(turn)
        steps = [
            self.task.step(
                flat.model, gather(self.data.train, part, self.device), optimizer, lambda: self.algorithm.correct(turn)
            )
            for part in batches(rows, self.local, rng.generator(self.seed, "batches", round, client))
        ]
        with torch.no_grad():
            self.algorithm.finish(turn)
            largest = float((flat.vector - origin).abs().max())
        metrics = merge(steps)
        if not np.isfinite(metrics["loss"].value):
            raise Diverged(f"its training loss is {metrics['loss'].value}")
        if not largest < LARGEST:
            raise Diverged(f"its largest change of a weight is {largest}")
        return Trained(flat.vector.cpu().numpy().copy(), len(rows), metrics, turn.reply)

    def evaluate_client(self, client: int, start: NDArray[np.float32]) -> dict[str, Mean]:
        """The metrics of the model `start` [P] on the rows that this client holds out."""
        return self._evaluate(start, self.data.train, self.partition.heldout_rows(client))

    def evaluate_test(self, start: NDArray[np.float32]) -> dict[str, float]:
        """The metrics of the model `start` [P] on the central test set."""
        means = self._evaluate(start, self.data.test, np.arange(len(next(iter(self.data.test.values())))))
        return {name: mean.value for name, mean in means.items()} | self.task.measure(self.flat.model, self.data)

    def metric_names(self) -> list[str]:
        """What the task measures."""
        batch = gather(self.data.test, np.arange(1), self.device)
        return list(self.task.score(self.flat.model.eval(), batch))

    @torch.no_grad()
    def _evaluate(self, start: NDArray[np.float32], columns: Columns, rows: NDArray) -> dict[str, Mean]:
        self.flat.reset(torch.from_numpy(start))
        torch.manual_seed(rng.integer(self.seed, "evaluate"))  # some tasks draw noise to be scored on
        self.flat.model.eval()
        parts = np.split(rows, range(self.batch_size, len(rows), self.batch_size))
        return merge(self.task.score(self.flat.model, gather(columns, part, self.device)) for part in parts)


def batches(rows: NDArray, local: Mapping[str, Any], generator: np.random.Generator) -> Iterator[NDArray]:
    """`local.steps` batches of rows, or those of `local.epochs` epochs; each epoch is shuffled anew."""
    size = local["batch_size"]

    def endless() -> Iterator[NDArray]:
        while True:
            order = generator.permutation(rows)
            yield from np.split(order, range(size, len(order), size))

    return islice(endless(), local["steps"] or local["epochs"] * -(-len(rows) // size))
