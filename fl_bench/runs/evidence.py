"""What somebody sees of a round, beside the examples that it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fl_bench.audit import labels
from fl_bench.audit.areas import Floats
from fl_bench.config.rules import MASKS
from fl_bench.data.arrays import Columns, pieces
from fl_bench.errors import ConfigError
from fl_bench.federation.exchange import Answer, Status, with_status
from fl_bench.federation.local import Trainer, Vector
from fl_bench.federation.rounds import Rounds
from fl_bench.runs.replay import turns
from fl_bench.storage.buffers import arrays_in
from fl_bench.strategies.layers import layers
from fl_bench.strategies.server import Exchanges
from fl_bench.tasks import rates
from fl_bench.tasks.base import Batch, Classifier


@dataclass(frozen=True)
class Seen:
    """The mean update of some clients in a round, as somebody sees it."""

    words: str  # who sees what
    clients: Sequence[int]
    received: Vector  # [P]: the model that they began with
    update: Vector  # [P]


def seen_by(by: Literal["server", "client"], rounds: Rounds, vector: Vector, number: int, client: int | None) -> Seen:
    """What the server sees of this client, or a client of all. Raises ConfigError where that is no update of a model.

    `vector` is the server's payload before the round.
    """
    if isinstance(rounds.strategy, Exchanges):
        raise ConfigError("strategy: clients send arrays beside a model, the labels too, and only models are audited")
    if rounds.trainer.algorithm.only_beside:
        raise ConfigError("strategy: clients send adapters of ranks of their own, and only models are audited")
    if private := rounds.trainer.private:
        raise ConfigError(f"strategy: {min(private)} stays with each client, and nobody sees a whole model")
    return by_client(rounds, vector, number) if by == "client" else by_server(rounds, vector, number, client)


def by_server(rounds: Rounds, vector: Vector, number: int, client: int | None) -> Seen:
    """The update of a client, or of the first honest one that trains; of all together where masks hide that of one.

    `vector` is the server's payload before the round. Raises ConfigError where this client sends none, or is malicious.
    """
    trainer, size = rounds.trainer, rounds.trainer.flat.layout.size
    by_client, plan = turns(rounds, number, vector, client)
    honest = [k for k in by_client if len(trainer.rows(k, number)) and not trainer.attack.attacks(k, number)]
    masked = rounds.cfg.secure_aggregation == MASKS
    if client is not None and masked:
        raise ConfigError(f"--client {client}: masks hide its update, and the server sees only the sum; leave it out")
    if client is not None and client not in honest:
        raise ConfigError(f"--client {client}: has no examples, or is malicious and need not send what they make")
    asked = list(by_client) if masked else [client] if client is not None else honest[:1]
    answers = with_status(Status.OK, rounds.fleet.exchange([by_client[other] for other in asked], plan))
    clients = _senders(answers, number)
    answer = answers[0].message  # of a client that has sent an update
    assert answer is not None
    payload, arrived = (
        trainer.layout.from_record(arrays_in(message.content)) for message in (by_client[clients[0]], answer)
    )
    words = f"the server sees the update of client {clients[0]}"
    if masked:
        words = f"masks show the server only the sum of the updates of clients {_listed(clients)}"
    elif getattr(rounds.strategy, "privacy", None) is not None:
        words += ", to which it adds noise itself"
    return Seen(words, clients, trainer.channel.arrives_down(payload, number)[:size], (arrived - payload)[:size])


def by_client(rounds: Rounds, vector: Vector, number: int) -> Seen:
    """What the server has made of the updates of all who have trained: its model after the round, less that before."""
    size, made = rounds.trainer.flat.layout.size, rounds.train(number, vector)
    clients = _senders(with_status(Status.OK, made.answers), number)
    words = f"a client sees what the server has made of the updates of clients {_listed(clients)}"
    return Seen(words, clients, vector[:size], (made.vector - vector)[:size])


@dataclass(frozen=True)
class Evidence:
    """What is seen of a round, the gradient that it stands for, and the truth."""

    trainer: Trainer
    round: int
    seen: Seen

    @property
    def classes(self) -> int:
        return len(self.trainer.data.classes)

    @cached_property
    def batches(self) -> list[Batch]:
        """Those of each client's first epoch that it has trained on."""
        found: list[Batch] = []
        for client, rows in zip(self.seen.clients, self._rows, strict=True):
            stream = self.trainer.stream("batches", client, self.round, rows, {})
            found += islice(stream, min(self._steps(len(rows)), self._per_epoch(len(rows))))
        return found

    def examples(self, column: str) -> NDArray:
        """A column of the batches [N, ...]."""
        return torch.cat([batch[column] for batch in self.batches]).cpu().numpy()

    @cached_property
    def gradient(self) -> dict[str, Tensor]:
        """Of the parameters by name: the mean over the steps, if they were plain ones."""
        rate = rates.of_round(self.trainer.local, self.round)["lr"]
        weights = [self.trainer.weighting.of(len(rows)) for rows in self._rows]
        gone = rate * np.average([self._steps(len(rows)) for rows in self._rows], weights=weights)
        parts = self.trainer.flat.layout.split(torch.from_numpy(self.seen.update / np.float32(-gone)))
        trained = {name for name, p in self.trainer.flat.model.named_parameters() if p.requires_grad}
        return {name: part.to(self.trainer.device) for name, part in parts.items() if name in trained}

    @cached_property
    def bias_gradient(self) -> Floats:
        """Of the last layer [C]. Raises ConfigError where that has no biases."""
        name = f"{list(layers(self.trainer.flat.model))[-1]}.bias"
        if name not in self.gradient or self.gradient[name].shape != (self.classes,):
            raise ConfigError(f"labels: the last layer of this model has no {self.classes} biases, one for each class")
        return self.gradient[name].cpu().double().numpy()

    @cached_property
    def shares(self) -> Floats:
        """Of the classes among the examples [C], as the update tells them. Raises ConfigError."""
        if not self.trainer.data.num_tests:
            raise ConfigError("labels: the server has no test rows, by which it would know what its model predicts")
        before, after = (self._predicted(self.seen.received + change) for change in (0, self.seen.update))
        return labels.shares(self.bias_gradient, before, after)

    def _predicted(self, vector: Vector) -> Floats:
        """What this model predicts in the mean for test rows of each class [C, C]; for all where it has none."""
        self.trainer.load(vector)
        logits, truth = scores(self.trainer, self.trainer.data.test, np.arange(self.trainer.data.num_tests))
        members, probabilities = functional.one_hot(truth, self.classes).double(), logits.softmax(dim=1)
        counts = members.sum(dim=0)[:, None]
        means = members.T @ probabilities / counts.clamp(min=1)
        found: Floats = torch.where(counts > 0, means, probabilities.mean(dim=0)).numpy()
        return found

    @property
    def _rows(self) -> list[NDArray]:
        return [self.trainer.rows(client, self.round) for client in self.seen.clients]

    def _per_epoch(self, rows: int) -> int:
        return -(-rows // int(self.trainer.local["batch_size"]))

    def _steps(self, rows: int) -> int:
        """How many steps plain training takes with so many rows."""
        return int(self.trainer.local["steps"] or self.trainer.local["epochs"] * self._per_epoch(rows))


@torch.no_grad()
def scores(
    trainer: Trainer, columns: Columns, rows: NDArray[np.int64], round: int | None = None
) -> tuple[Tensor, Tensor]:
    """The loaded model's logits [N, C], float64, and the labels [N] of these rows, as clients see them in `round`."""
    task, found = trainer.task, []
    assert isinstance(task, Classifier)
    for part in pieces(rows, trainer.batch_size):
        batch = task.gather(columns, part, trainer.device)
        batch = batch if round is None else trainer.drift(batch, part, round)
        found.append((task.logits(trainer.flat.model, batch).cpu().double(), batch["y"].cpu()))
    logits, truth = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(truth)


def _senders(answers: Sequence[Answer], number: int) -> list[int]:
    """Who has answered. Raises ConfigError where nobody has."""
    if not answers:
        raise ConfigError(
            f"--round {number}: none of those who are asked sends an update; name another round or client"
        )
    return [answer.client for answer in answers]


def _listed(clients: Sequence[int]) -> str:
    return ", ".join(map(str, clients))
