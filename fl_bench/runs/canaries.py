"""A run once more with canaries, and how much of them can be told from what it shows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch.func import grad, vmap

from fl_bench.attacks.base import Attack
from fl_bench.attacks.canaries import Canaries, CanaryClients, CanaryRows
from fl_bench.audit.canaries import FEWEST, Guessed, guessed
from fl_bench.build import build, find_target
from fl_bench.config.compose import options, with_option
from fl_bench.config.rules import AUTO_CLIENTS
from fl_bench.engines.base import Engine
from fl_bench.errors import ConfigError, note
from fl_bench.federation.exchange import Status, with_status
from fl_bench.federation.local import Trainer, Vector
from fl_bench.federation.rounds import Experiment, Round
from fl_bench.network.schedule import Schedule
from fl_bench.observers.base import Observer
from fl_bench.privacy.base import Protection
from fl_bench.runs.execute import run
from fl_bench.runs.experiment import make_strategy
from fl_bench.runs.scratch import scratch_folder
from fl_bench.storage import files
from fl_bench.storage.buffers import arrays_in
from fl_bench.storage.checkpoint import Store
from fl_bench.tasks.examples import of_one

Floats = NDArray[np.float64]
# How much an update [P] of a model [P] speaks for these canaries, by their numbers, being in; beside it are those of
# the others [K, P].
Measure = Callable[[Trainer, NDArray[np.int64], Vector, Vector, NDArray[np.float32]], Floats]


class Planted(NamedTuple):
    """What is planted in a run, by what its epsilon is about."""

    attack: str  # an option of the group
    given: Mapping[str, Any]  # its keys
    delta: float
    alone: bool  # whether each client's update is seen, or only the model that the server makes of all
    measure: Measure


def measured(cfg: DictConfig, count: int, rounds: int, out: Path) -> tuple[Guessed, float]:
    """What is guessed of so many canaries in so many rounds of this config, and the epsilon that the run accounts for.

    `cfg` is on the inline engine. Writes canaries.csv into `out`. Raises ConfigError where `plan` does.
    """
    planted = plan(cfg, count)
    only = {
        "attack": {**planted.given, "count": count},
        "num_rounds": rounds,
        "secure_aggregation": "none",  # epsilon is of what a client sends, whether masks hide it or not
        "evaluate": {"every": rounds},
        "strategy": {"needs_each_client": planted.alone or cfg.strategy.needs_each_client},
    }
    base = cfg.copy()
    base.attack = with_option(cfg, "attack", options("attack")[planted.attack])
    changed = OmegaConf.merge(base, only)
    assert isinstance(changed, DictConfig)
    note(f"canaries: {rounds} rounds once more, with {count} planted")
    with scratch_folder() as scratch:
        store = Store(scratch / "run", 0)
        store.folder.mkdir()
        scores: list[Scores] = []

        def observe(made: Experiment) -> list[Observer]:
            scores.append(Scores(made.trainer, planted))
            return [*scores]

        run(changed, build(changed.engine, Engine), scratch, store, None, observe)
        (found,) = scores
        values, attack = found.values(), found.attack
    table = zip(range(count), attack.owners.tolist(), attack.inside.astype(int).tolist(), values.tolist(), strict=True)
    files.write(out / "canaries.csv", files.csv_of([("canary", "client", "inside", "score"), *table]))
    return guessed(values, attack.inside, planted.delta), found.epsilon


class Scores(Observer):
    """Looks at what a run shows of its canaries."""

    epsilon = 0.0  # that is spent so far

    def __init__(self, trainer: Trainer, planted: Planted) -> None:
        assert isinstance(trainer.attack, Canaries)
        self.trainer, self.planted, self.attack = trainer, planted, trainer.attack
        self.sums = np.zeros(self.attack.count)

    def see(self, round: Round) -> None:
        if not round.number:
            self.first = round.vector
        else:
            self.epsilon = float(round.row["epsilon"] or 0)
            if self.planted.alone:
                self._look(round)
        self.last = round.vector

    def values(self) -> Floats:
        """The score of each canary [count]: the higher, the more likely it is in."""
        if self.planted.alone:
            return self.sums
        every, update = np.arange(self.attack.count), self.last - self.first
        return self.planted.measure(self.trainer, every, self.first, update, update[:0])

    def _look(self, round: Round) -> None:
        """At each update of the round, which began with the last one's model."""
        size, trainer = self.trainer.flat.layout.size, self.trainer
        received = trainer.channel.arrives_down(self.last, round.number)[:size]
        answers = {answer.client: answer.message for answer in with_status(Status.OK, round.answers)}
        arrived = [trainer.layout.from_record(arrays_in(message.content)) for message in answers.values() if message]
        updates = np.stack([vector - self.last for vector in arrived])[:, :size] if arrived else ()
        for place, client in enumerate(answers):
            numbers, others = self.attack.of(client), np.delete(updates, place, axis=0)
            self.sums[numbers] += self.planted.measure(trainer, numbers, received, updates[place], others)


def plan(cfg: DictConfig, count: int) -> Planted:
    """How so many canaries are planted in a run. Raises ConfigError where they cannot be, or it has no epsilon."""
    if count < FEWEST:
        raise ConfigError(f"--canaries {count}: must be {FEWEST} or more, as fewer show no epsilon above 1")
    if find_target(cfg.attack) is not Attack:
        raise ConfigError(f"--canaries {count}: take the place of an attack, and this run has one")
    private = getattr(make_strategy(cfg.strategy.server), "privacy", None)
    level = build(cfg.privacy, Protection, seed=cfg.seed).level
    if private is None and level == Protection.level:
        raise ConfigError(f"--canaries {count}: the run has no epsilon; strategy=dp_* and privacy=... have")
    if private is None and find_target(cfg.strategy.schedule) is not Schedule:
        raise ConfigError(f"--canaries {count}: clients of this strategy begin a round with different models")
    if level == "example":
        return Planted("canary_rows", {}, cfg.privacy.delta, True, _learned)
    if cfg.num_clients != AUTO_CLIENTS and count > cfg.num_clients:
        raise ConfigError(f"--canaries {count}: each is a client, and the run has {cfg.num_clients}")
    if private is None:
        return Planted("canary_clients", {"opposite": True}, cfg.privacy.delta, True, _along)
    opposite = private.sampling == "fixed"
    return Planted("canary_clients", {"opposite": opposite}, private.target_delta, False, _along)


def _along(
    trainer: Trainer, numbers: NDArray[np.int64], received: Vector, update: Vector, others: NDArray[np.float32]
) -> Floats:
    """How far the update goes in the direction of each canary."""
    attack, size = trainer.attack, trainer.flat.layout.size
    assert isinstance(attack, CanaryClients)
    return np.array([np.dot(attack.direction(number, size), update[:size]) for number in numbers], np.float64)


def _learned(
    trainer: Trainer, numbers: NDArray[np.int64], received: Vector, update: Vector, others: NDArray[np.float32]
) -> Floats:
    """How far the update goes against the gradient of each canary.

    By least squares, as these overlap, and what the clients' own rows have in common is in the updates of the others.
    """
    attack, model = trainer.attack, trainer.flat.model
    assert isinstance(attack, CanaryRows)
    trainer.load(received)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    each = vmap(grad(of_one(trainer.task, model), has_aux=True), in_dims=(None, 0))
    rows = {name: column[numbers].to(trainer.device) for name, column in attack.rows.items()}
    gradients, _ = each(trained, rows)
    seen, *beside = (
        np.concatenate([trainer.flat.layout.split(vector)[name].ravel() for name in trained])
        for vector in (update, *others)
    )
    slopes = torch.cat([gradients[name].flatten(1) for name in trained], dim=1).cpu().numpy()
    columns = np.stack([*slopes, *beside], axis=1)
    columns /= np.linalg.norm(columns, axis=0).clip(min=1e-30)
    found: Floats = -np.linalg.lstsq(columns, seen)[0][: len(numbers)].astype(np.float64)
    return found
