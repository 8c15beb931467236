"""What happens at a client: local training and evaluation, on whichever worker has the client's turn."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from fl_bench import rng
from fl_bench.attacks.base import Attack
from fl_bench.build import build
from fl_bench.compression.base import Codec
from fl_bench.config.paths import INIT
from fl_bench.config.rules import MASKS
from fl_bench.data.arrays import Columns, FederatedData
from fl_bench.data.augment import Augment, Chances
from fl_bench.data.drift import Drift
from fl_bench.data.partition import NOBODY, UNSEEN, Partition
from fl_bench.data.split import validation_rows
from fl_bench.federation.channel import Channel
from fl_bench.federation.parameters import FlatModel
from fl_bench.federation.trained import Trained
from fl_bench.federation.update import Diverged
from fl_bench.federation.weighting import Weighting
from fl_bench.machine import keep_freed_memory
from fl_bench.metrics import Summand, merge
from fl_bench.models.initial import begin
from fl_bench.privacy.base import Protection
from fl_bench.robust.base import Rule
from fl_bench.storage.states import State
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks import rates
from fl_bench.tasks.base import Batch, Task

Vector = NDArray[np.float32]
Settings = Mapping[str, Any]  # what the strategy's server half sends along

CONFIG = "config.yaml"  # the resolved config, in the folder that the workers read
# Before the names of metrics that are not of what a client uses, and of those of an attack.
VALIDATION, RECEIVED, ATTACK = "validation/", "received/", "attack/"
PRIVATE = "model."  # before the names of a client's private tensors in its state


class Trainer:
    """One process's model and data: any client's turn can be taken here. `folder` holds the config and the arrays.

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
        self.privacy: Protection = build(cfg.privacy, Protection, seed=self.seed)
        self.attack.suit(self.task, self.data)
        self.metrics = {metric.name: metric for metric in (*self.task.metrics, *self.attack.metrics)}
        self.algorithm: LocalAlgorithm = build(cfg.strategy.client, LocalAlgorithm)
        uniform = cfg.weighting == "uniform" or self.algorithm.uniform or self.rule.each
        self.masked: bool = cfg.secure_aggregation == MASKS
        hidden = self.masked and self.partition.elsewhere
        self.weighting = Weighting(self.partition.train_sizes, uniform, cfg.max_examples, hidden)
        rng.seed_torch(self.seed, "model")
        model = self.task.model(self.data)
        shared = self.task.shared(model)
        self.personal = self.algorithm.private(model) & set(shared)  # what the strategy keeps at the clients
        private = self.personal | self.task.private(model)
        self.untaken = begin(model, folder / INIT, cfg.model, private)
        self.flat = FlatModel(model, [name for name in shared if name not in private], self.device)
        self.layout = self.flat.layout.with_extras(self.algorithm.extras)
        up, down = build(cfg.compression.up, Codec), build(cfg.compression.down, Codec)
        self.channel = Channel(self.seed, up, down, self.flat.layout, self.algorithm.extras)
        tensors = self.flat.model.state_dict()
        self.private = {name: tensors[name] for name in sorted(private)}

    @property
    def num_clients(self) -> int:
        """With those who never train."""
        return len(self.partition.ends) + len(self.unseen.ends)

    def rows(self, client: int, round: int) -> NDArray:
        """The rows that the client's training works on in this round."""
        return self.drift.rows(self.algorithm.rows(self.partition, client), round)

    def examples(self, rows: NDArray, chances: Chances, round: int) -> Batch:
        """These training rows as they look in this round, augmented as `chances` [len(rows), ...] decide."""
        batch = self.drift(self.task.gather(self.data.train, rows, self.device), rows, round)
        if not self.augment.draws:
            return batch
        return {**batch, "x": self.augment(batch["x"], torch.from_numpy(chances).to(self.device))}

    def stream(self, purpose: str, client: int, round: int, rows: NDArray, told: Settings | None) -> Iterator[Batch]:
        """Batches of these rows without end, as a client takes them for this purpose; each epoch is shuffled anew.

        `told` is None where they are not for training: what comes of them never leaves, and needs no protection.
        """
        protection = Protection(self.seed) if told is None else self.privacy
        draws = protection.generator(purpose, round, client, told or {})
        parts = protection.batches(rows, self.local["batch_size"], draws)
        chances = self.augment.chances(self.seed, purpose, round, client)
        return (self.examples(part, chances(len(part)), round) for part in parts)

    def untrained(self) -> Vector:
        """The payload before the first round: the model as it was made, and zeros."""
        model = self.flat.vector.cpu().numpy()
        return np.concatenate([model, np.zeros(self.layout.size - len(model), np.float32)])

    def train(self, client: int, round: int, payload: Vector, config: Settings, state: State) -> Trained:
        """One client's turn from what the server sent. Raises Diverged when its loss is not finite."""
        start, rows = torch.from_numpy(payload).to(self.device), self.rows(client, round)
        turn = self._turn("", client, round, rows, start, config, state)
        self.flat.model.train()
        self.privacy.begin(turn, len(rows))
        if self.attack.attacks(client, round):
            self.attack.begin(turn)
        self.algorithm.begin(turn)
        steps = self.algorithm.train(turn)
        with torch.no_grad():
            self.algorithm.finish(turn)
        extras = [turn.extras[name] for name in self.algorithm.extras]
        end = torch.cat([turn.parameters, *extras]) if extras else turn.parameters
        kept = {PRIVATE + name: tensor for name, tensor in self.private.items()} | turn.state
        state = {name: tensor.detach().cpu().clone() for name, tensor in kept.items()}
        return Trained(end.cpu().numpy(), len(rows), merge(steps), turn.reply, turn.steps, state).checked()

    def evaluate_client(
        self, client: int, round: int, payload: Vector, config: Settings, state: State
    ) -> dict[str, Summand]:
        """The metrics of the model that this client would use, on the rows that it holds out. Raises Diverged.

        Of a client that never trains also those of the model as received, and with `evaluate.validation=clients` those
        on half of the rows, which are then left out of the others. Of an attack's success only honest clients that
        train. None where it has none of them in this round.
        """
        seen = len(self.partition.ends)
        partition, place = (self.partition, client) if client < seen else (self.unseen, client - seen)
        rows = partition.heldout_rows(place)
        halves = self.clients_validate and client < seen and len(rows) > 1
        half, rows = (self.drift.rows(p, round) for p in np.split(rows, [len(rows) // 2 if halves else 0]))
        metrics: dict[str, Summand] = {}
        if not len(rows):
            return metrics
        if client >= seen:
            self.load(payload)
            metrics |= _named(RECEIVED, self._scores(rows, round))
        start = torch.from_numpy(payload).to(self.device)
        mine = self.drift.rows(partition.train_rows(place), round)
        turn = self._turn("adapt ", client, round, mine, start, config, state)
        self.flat.model.train()
        self.algorithm.personalize(turn)
        if not len(mine):  # its data drift, and it has none to adapt on
            adapting: Iterable = ()
        elif self.adapt_steps == "turn":
            adapting = turn.batches(purpose="adapt")
        else:
            adapting = (turn.draw("adapt") for _ in range(int(self.adapt_steps)))
        for batch in adapting:
            turn.step(batch)
        self.flat.model.eval()
        if len(half):
            metrics |= _named(VALIDATION, self._scores(half, round))
        metrics |= self._scores(rows, round, attacked=client < seen and client not in self.attack.malicious)
        if not np.isfinite(loss := metrics["loss"].value):
            raise Diverged(f"its held-out loss is {loss}")
        return metrics

    @property
    def adapts(self) -> bool:
        """Whether a client does something with the model before it is evaluated."""
        personalize: Any = self.algorithm.personalize
        return self.adapt_steps != 0 or personalize.__func__ is not LocalAlgorithm.personalize

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
        self.flat.reset(torch.from_numpy(payload[: self.flat.layout.size]))
        self.flat.model.eval()

    def _turn(
        self, prefix: str, client: int, round: int, rows: NDArray, payload: Tensor, config: Settings, state: State
    ) -> Turn:
        """A turn of this client with the model as it begins; `prefix` keeps its random numbers from those of others."""
        size, extras = self.flat.layout.size, self.algorithm.extras
        self.flat.reset(payload[:size])
        state = {name: tensor.to(self.device, copy=True) for name, tensor in state.items()}
        for name, tensor in self.private.items():
            if PRIVATE + name in state:
                tensor.copy_(state.pop(PRIVATE + name))
        rng.seed_torch(self.seed, prefix + "torch", round, client)
        return Turn(
            client=client, round=round, task=self.task, local=rates.of_round(self.local, round), model=self.flat.model,
            parameters=self.flat.vector, start=payload[:size], split=self.flat.layout.split, config=config,
            stream=lambda purpose: self.stream(prefix + purpose, client, round, rows, None if prefix else config),
            batches_per_epoch=-(-len(rows) // self.local["batch_size"]), private=self.private, state=state,
            extras=dict(zip(extras, payload[size:].clone().view(len(extras), size), strict=True)),
        )  # fmt: skip

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
        return {**scores, **_named(ATTACK, self.attack.success(self.task, self.flat.model, batch))}

    def _test_rows(self) -> NDArray:
        return np.arange(self.data.num_tests)

    def _batches(self, rows: NDArray) -> list[NDArray]:
        return np.split(rows, range(self.batch_size, len(rows), self.batch_size)) if len(rows) else []


def _named(prefix: str, metrics: Mapping[str, Summand]) -> dict[str, Summand]:
    return {prefix + name: metric for name, metric in metrics.items()}


trainer_in = lru_cache(maxsize=1)(Trainer)  # one experiment at a time in a process; its folder is its identity
