"""One process's model and data, made from the config, and what the server's model is worth on its own rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from fl_bench import rng
from fl_bench.attacks.base import Attack
from fl_bench.build import build
from fl_bench.compression.base import Codec
from fl_bench.config.paths import INIT
from fl_bench.config.rules import MASKS
from fl_bench.data.arrays import Columns, FederatedData, pieces
from fl_bench.data.augment import Augment
from fl_bench.data.drift import Drift
from fl_bench.data.partition import NOBODY, UNSEEN, Partition
from fl_bench.data.split import root_rows, validation_rows
from fl_bench.federation.channel import Channel
from fl_bench.federation.parameters import Layout, flat
from fl_bench.federation.weighting import Weighting
from fl_bench.machine import keep_freed_memory
from fl_bench.metrics import Summand, merge
from fl_bench.models.initial import begin
from fl_bench.privacy.base import Protection
from fl_bench.robust.base import Rule
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.tasks.base import Task

Vector = NDArray[np.float32]
Settings = Mapping[str, Any]  # what the strategy's server half sends along

CONFIG = "config.yaml"  # the resolved config, in the folder that the workers read
ATTACK = "attack/"  # before the names of an attack's metrics


class Parts:
    """What an experiment is made of, as a worker has it. `folder` holds the config and the arrays.

    What travels is a payload: the model as a flat vector [P], and after it the extras of the algorithm, [P] each.
    """

    def __init__(self, folder: Path) -> None:
        cfg = OmegaConf.load(folder / CONFIG)
        assert isinstance(cfg, DictConfig)
        torch.set_num_threads(cfg.engine.threads)
        keep_freed_memory()
        self.seed: int = cfg.seed
        self.local: Mapping[str, Any] = OmegaConf.to_container(cfg.local)  # type: ignore[assignment]
        self.batch_size: int = cfg.evaluate.batch_size
        self.adapt_steps: int | str = cfg.evaluate.adapt_steps
        self.timeout: float | None = cfg.engine.client_timeout_s  # of a client's turn
        self.retry: bool = cfg.on_client_failure == "retry"
        wanted = cfg.engine.client_resources.num_gpus
        self.device = "cuda" if wanted and (wanted != "auto" or torch.cuda.is_available()) else "cpu"
        if self.device == "cuda":  # on the CPU they are deterministic as they are, and this imports for two seconds
            torch.use_deterministic_algorithms(True, warn_only=True)  # some kernels have no deterministic form
        self.data = FederatedData.open(folder)
        self.partition = Partition.open(folder)
        there = any(folder.glob(f"{UNSEEN}.*"))
        self.unseen = Partition.open(folder, UNSEEN) if there else Partition(NOBODY, np.zeros(1, np.int64), NOBODY)
        self.validation_rows = validation_rows(cfg.evaluate.validation, self.data.num_samples, cfg.seed)
        self.clients_validate: bool = cfg.evaluate.validation == "clients"
        self.task: Task = build(cfg.task, Task)
        self.augment: Augment = build(cfg.augment, Augment)
        self.task.measure_also(cfg.evaluate.metrics)
        given = {"seed": self.seed, "data": self.data, "partition": self.partition, "unseen": self.unseen}
        self.drift: Drift = build(cfg.data_drift, Drift, **given)
        clients, classes = len(self.partition.ends), len(self.data.classes)
        self.attack: Attack = build(cfg.attack, Attack, seed=self.seed, num_clients=clients, num_classes=classes)
        self.rule: Rule = build(cfg.robust, Rule, seed=self.seed)
        self.root_rows = root_rows(self.rule.root_size, self.validation_rows, self.data.num_samples, cfg.seed)
        self.privacy: Protection = build(cfg.privacy, Protection, seed=self.seed)
        self.attack.suit(self.task, self.data)
        self.metrics = {metric.name: metric for metric in (*self.task.metrics, *self.attack.metrics)}
        self.algorithm: LocalAlgorithm = build(cfg.strategy.client, LocalAlgorithm)
        uniform = cfg.weighting == "uniform" or self.algorithm.uniform or self.rule.each
        self.masked: bool = cfg.secure_aggregation == MASKS
        hidden = self.masked and self.partition.elsewhere
        self.weighting = Weighting(self.partition.train_sizes, uniform, cfg.max_examples, hidden)
        rng.seed_torch(self.seed, "model")
        model = self.algorithm.model(self.task, self.data)
        shared = self.algorithm.shared(self.task, model)
        self.personal = self.algorithm.private(model) & set(shared)  # what the strategy keeps at the clients
        private = self.personal | self.task.private(model)
        self.untaken = begin(model, folder / INIT, cfg.model, private)
        sent = [name for name in shared if name not in private]
        self.flat = flat(model, sent, self.device, self.algorithm.served(model))
        self.layout = self.flat.layout.with_extras(self.algorithm.extras)
        up, down = build(cfg.compression.up, Codec), build(cfg.compression.down, Codec)
        beside = self.algorithm.only_beside
        self.first = self.flat.vector.clone() if beside else None  # where turns begin that are sent no vector
        self.channel = Channel(self.seed, up, down, Layout({}) if beside else self.flat.layout, self.algorithm.extras)
        tensors = self.flat.model.state_dict()
        self.private = {name: tensors[name] for name in sorted(private)}

    @property
    def num_clients(self) -> int:
        """With those who never train."""
        return len(self.partition.ends) + len(self.unseen.ends)

    def rows(self, client: int, round: int) -> NDArray:
        """The rows that the client's training works on in this round; after all clients comes the server."""
        if client == self.num_clients:
            return self.root_rows
        return self.drift.rows(self.algorithm.rows(self.partition, client), round)

    @property
    def shows(self) -> bool:
        """Whether the task can show what the server's model does: it is whole for that, and there is a test set."""
        return not self.personal and self.data.num_tests > 0

    @torch.no_grad()
    def _scores(self, rows: NDArray, round: int, attacked: bool = False) -> dict[str, Summand]:
        """The metrics of the model as it is on these training rows as they look in this round."""
        parts = enumerate(self._batches(rows))
        return merge(self._score(self.data.train, part, number, attacked, round) for number, part in parts)

    @property
    def test_batches(self) -> range:
        """The numbers of the batches of the central test set that say what the server's model is worth.

        None where there is no such set, or parts of the model are the clients' own. What the task itself leaves with
        the clients (a discriminator) it can do without in its `measure`, which is then all.
        """
        return range(0 if self.private else len(self._batches(self._test_rows())))

    @property
    def validation_batches(self) -> range:
        """The numbers of the batches of the rows that the server keeps to choose by, after those of the test set."""
        first = len(self.test_batches)
        return range(first, first + len(self._batches(self.validation_rows)))

    @torch.no_grad()
    def test(self, payload: Vector, batches: Sequence[int]) -> list[Mapping[str, Summand]]:
        """The metrics of the server's model on each of these batches."""
        self.load(payload)
        tested = [(self.data.test, part) for part in self._batches(self._test_rows())]
        kept = [(self.data.train, part) for part in self._batches(self.validation_rows)]
        return [self._score(*(tested + kept)[batch], batch, attacked=batch < len(tested)) for batch in batches]

    def measure(self, payload: Vector) -> dict[str, float]:
        """The task's metrics of the server's model that do not add up over batches."""
        if not self.shows:
            return {}
        self.load(payload)
        measured = self.task.measure(self.flat.model, self.data)
        self.task.declared(measured)
        return measured

    def load(self, payload: Vector) -> None:
        """Turn the model into the server's, ready to be looked at."""
        self.flat.reset(torch.from_numpy(self.flat.layout.model_in(payload)))
        self.flat.model.eval()

    def _score(
        self, columns: Columns, rows: NDArray, number: int, attacked: bool, round: int | None = None
    ) -> Mapping[str, Summand]:
        """The metrics on these rows, batch `number` of the set that they are from; a client's drift by the round.

        Where they are `attacked`, with how far an attack succeeds on them.
        """
        rng.seed_torch(self.seed, "evaluate", number)  # some tasks draw noise to be scored on
        batch = self.task.gather(columns, rows, self.device)
        batch = batch if round is None else self.drift(batch, rows, round)
        scores = self.task.score(self.flat.model, batch)
        if not attacked:
            return scores
        return {**scores, **named(ATTACK, self.attack.success(self.task, self.flat.model, batch))}

    def _test_rows(self) -> NDArray:
        return np.arange(self.data.num_tests)

    def _batches(self, rows: NDArray) -> list[NDArray]:
        return pieces(rows, self.batch_size) if len(rows) else []

    def untrained(self) -> Vector:
        """The payload before the first round: the model as it was made, and zeros."""
        model = self.flat.vector.cpu().numpy()
        return np.pad(model, (0, self.layout.size - self.flat.layout.size))


def named(prefix: str, metrics: Mapping[str, Summand]) -> dict[str, Summand]:
    """The same metrics, each with this before its name."""
    return {prefix + name: metric for name, metric in metrics.items()}
