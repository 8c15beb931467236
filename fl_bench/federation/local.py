"""What happens at a client: local training and evaluation, on whichever worker has the client's turn."""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_bench import rng
from fl_bench.data.augment import Chances
from fl_bench.federation.open_turns import OpenTurns
from fl_bench.federation.parts import Parts, named
from fl_bench.federation.trained import Trained
from fl_bench.federation.update import Diverged
from fl_bench.metrics import Summand, merge
from fl_bench.privacy.base import Protection
from fl_bench.storage.states import State
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks import rates
from fl_bench.tasks.base import Batch

Vector = NDArray[np.float32]
Settings = Mapping[str, Any]  # what the strategy's server half sends along

# Before the names of metrics that are not of what a client uses.
VALIDATION, RECEIVED = "validation/", "received/"
NOTHING: Mapping[str, NDArray] = {}  # beside a model
PRIVATE = "model."  # before the names of a client's private tensors in its state


class Trainer(Parts):
    """One process's model and data, where any client's turn can be taken."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.open_turns = OpenTurns(self.flat)

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

    def train(
        self,
        client: int,
        round: int,
        payload: Vector,
        config: Settings,
        state: State,
        beside: Mapping[str, NDArray] = NOTHING,
        exchange: int = 0,
        last: bool = True,
    ) -> Trained:
        """One client's turn from what the server sent, or what is due of it in one of a round's exchanges.

        Raises Diverged when its loss is not finite.
        """
        rows = self.rows(client, round)
        if exchange:
            turn = self.open_turns.go_on(client, round)
            rng.seed_torch(self.seed, f"torch {exchange}", round, client)
        else:
            start = torch.from_numpy(payload).to(self.device) if self.first is None else self.first
            turn = self._turn("", client, round, rows, start, config, state)
        before, turn.sends = turn.steps, {}
        turn.beside = {name: torch.from_numpy(array).to(self.device) for name, array in beside.items()}
        if not self.flat.model.training:  # to look takes less time than to set, of which exchanges have many
            self.flat.model.train()
        if exchange:
            steps = self.algorithm.go_on(turn)
        else:
            self.privacy.begin(turn, len(rows))
            if self.attack.attacks(client, round):
                self.attack.begin(turn)
            self.algorithm.begin(turn)
            steps = self.algorithm.train(turn)
        if last:
            with torch.no_grad():
                self.algorithm.finish(turn)
        else:
            self.open_turns.leave(turn)
        extras = [turn.extras[name] for name in self.algorithm.extras]
        end = torch.cat([turn.parameters, *extras]) if extras else turn.parameters
        end = end if self.first is None else end[:0]
        kept = {PRIVATE + name: tensor for name, tensor in turn.private.items()} | turn.state
        state = {name: tensor.detach().cpu().clone() for name, tensor in kept.items()} if last else {}
        sends = {name: tensor.detach().cpu().numpy().copy() for name, tensor in turn.sends.items()}
        made = Trained(end.cpu().numpy(), len(rows), merge(steps), turn.reply, turn.steps - before, state, sends)
        return made.checked(self.algorithm.measures)

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
            metrics |= named(RECEIVED, self._scores(rows, round))
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
            metrics |= named(VALIDATION, self._scores(half, round))
        metrics |= self._scores(rows, round, attacked=client < seen and client not in self.attack.malicious)
        if not np.isfinite(loss := metrics["loss"].value):
            raise Diverged(f"its held-out loss is {loss}")
        return metrics

    @torch.no_grad()
    def embed_tests(self, client: int, round: int, payload: Vector, state: State) -> dict[str, NDArray]:
        """What a client without labels sends to a server half that has those of the test rows."""
        start = torch.from_numpy(payload).to(self.device)
        turn = self._turn("test ", client, round, self.rows(client, round), start, {}, state)
        self.algorithm.test(turn, self.data.test)
        return {name: tensor.cpu().numpy() for name, tensor in turn.sends.items()}

    @property
    def adapts(self) -> bool:
        """Whether a client does something with the model before it is evaluated."""
        personalize: Any = self.algorithm.personalize
        return self.adapt_steps != 0 or personalize.__func__ is not LocalAlgorithm.personalize

    def _turn(
        self, prefix: str, client: int, round: int, rows: NDArray, payload: Tensor, config: Settings, state: State
    ) -> Turn:
        """A turn of this client with the model as it begins; `prefix` keeps its random numbers from those of others."""
        start, extras = self.flat.layout.model_in(payload), self.algorithm.extras
        self.flat.reset(start)
        state = {name: tensor.to(self.device, copy=True) for name, tensor in state.items()}
        for name, tensor in self.private.items():
            if PRIVATE + name in state:
                tensor.copy_(state.pop(PRIVATE + name))
        rng.seed_torch(self.seed, prefix + "torch", round, client)
        return Turn(
            client=client, round=round, task=self.task, local=rates.of_round(self.local, round), model=self.flat.model,
            parameters=self.flat.vector, start=start, split=self.flat.layout.split, config=config,
            stream=lambda purpose: self.stream(prefix + purpose, client, round, rows, None if prefix else config),
            batches_per_epoch=-(-len(rows) // self.local["batch_size"]), private=self.private, state=state,
            examples=lambda places: self.task.gather(self.data.train, rows[places], self.device),
            extras=dict(zip(extras, payload[len(start) :].clone().view(len(extras), len(start)), strict=True)),
        )  # fmt: skip


trainer_in = lru_cache(maxsize=1)(Trainer)  # one experiment at a time in a process; its folder is its identity
