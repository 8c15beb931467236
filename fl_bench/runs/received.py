"""The gradients that a client with columns, and without labels, receives in a round of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fl_bench.audit.areas import Floats
from fl_bench.errors import ConfigError
from fl_bench.federation.exchange import beside_in
from fl_bench.federation.local import Vector
from fl_bench.federation.rounds import Rounds
from fl_bench.runs.replay import turns
from fl_bench.vertical.party import GRADIENT, ROWS


@dataclass(frozen=True)
class Received:
    """What a client is sent of the rows of a round's first epoch, beside the truth."""

    words: str  # who sees what
    clients: Sequence[int]
    gradients: Floats  # [N, width], as they arrive, times the rows of the batch that their loss is a mean of
    labels: NDArray[np.int64]  # [N]
    classes: Sequence[str]  # their names


def received(rounds: Rounds, vector: Vector, number: int, client: int | None) -> Received:
    """What this client, or the first that trains, is sent when the round is made again from the model `vector`.

    Raises ConfigError where it does not train, or is sent no gradients.
    """
    strategy: Any = rounds.strategy
    by_client, _ = turns(rounds, number, vector, client)
    if not by_client:
        raise ConfigError(f"--round {number}: no client trains in it, and is sent gradients; name another round")
    whose = min(by_client) if client is None else client
    trainer, go_on = rounds.trainer, strategy.go_on
    rows: list[NDArray] = []
    gradients: list[NDArray] = []

    def watched(
        server_round: int, exchange: int, asked: Sequence[Message], replies: Sequence[Message]
    ) -> list[Message]:
        messages = list(go_on(server_round, exchange, asked, replies))
        before, after = _beside(asked, whose), _beside(messages, whose)
        if GRADIENT in after:
            arrived = trainer.channel.beside(trainer.channel.down, whose, number, after, exchange).arrays
            rows.append(before[ROWS])
            gradients.append(arrived[GRADIENT] * len(arrived[GRADIENT]))  # of the mean of a batch, which may be short
        return messages

    strategy.go_on = watched
    rounds.train(number, vector)
    if not gradients:
        raise ConfigError(f"--round {number}: client {whose} is sent no gradients; name another round or client")
    places, first = np.unique(np.concatenate(rows), return_index=True)
    labels = trainer.data.train["y"][trainer.partition.train_rows(whose)[places]]
    words = f"client {whose} sees the gradients of {len(places)} rows"
    seen = np.concatenate(gradients)[first].astype(np.float64)
    return Received(words, [whose], seen, labels, trainer.data.classes)


def _beside(messages: Iterable[Message], client: int) -> dict[str, NDArray]:
    return next((beside_in(m.content) for m in messages if m.metadata.dst_node_id == client), {})
