"""The label holder of split learning over columns: the server half."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from torch import Tensor

from fl_bench import rng
from fl_bench.data.arrays import batches, pieces
from fl_bench.metrics import Summand, merge
from fl_bench.storage.buffers import BESIDE, to_record
from fl_bench.strategies.server import Given, OwnPart
from fl_bench.tasks.base import Batch, Metrics
from fl_bench.tasks.rates import of_round
from fl_bench.vertical.nets import Holders, Joined
from fl_bench.vertical.party import EMBEDDING, GRADIENT, ROWS


class Holder(FedAvg, OwnPart):
    """Trains the top net, and the bottom net of its own columns, on the embeddings that the parties send.

    A round is as many batches as `local` says, and an exchange more: with the rows of a batch come the gradients of the
    one before. The embedding of a party that has dropped out, or failed, is 0. See `Party` for the papers.
    """

    vertical = True
    of_nothing = True  # it trains also where no party answers
    predicts_alone = True  # whether it can tell something of rows of which no party has sent an embedding
    parts: type[Holders] = Holders

    def __init__(self, width: int, local_updates: int) -> None:
        super().__init__()
        self.width, self.local_updates = width, local_updates

    def use(self, given: Given) -> None:
        model = given.model
        assert isinstance(model, Joined)
        self.given, self.rows = given, given.partition.train_rows(0)  # those that all parties have
        self.block, self.parties = model.blocks[-1], len(model.blocks) - 1
        self.net = copy.deepcopy(self.parts(model.bottoms[-1], model.top)).requires_grad_(True)

    def tensors(self) -> dict[str, Tensor]:
        names = {"bottom": f"bottoms.{self.parties}", "top": "top"}
        named = ((name.partition("."), tensor) for name, tensor in self.net.state_dict().items())
        return {f"{names[part]}.{rest}": tensor for (part, _, rest), tensor in named}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        given = self.given
        local = of_round(given.local, server_round)
        generator = rng.generator(given.seed, "batches", server_round, self.parties)
        per_epoch = -(-len(self.rows) // local["batch_size"])
        count = local["steps"] or local["epochs"] * per_epoch
        places = np.arange(len(self.rows), dtype=np.int32)
        self.batches = list(islice(batches(places, local["batch_size"], generator), count))
        self.arrays = arrays
        self.measured: list[Metrics] = []
        self.optimizer = given.task.optimizer(self.net.train(), local)
        asked = [client for client in grid.get_node_ids() if client < self.parties]
        return [self._message(client, {ROWS: self.batches[0]}) for client in asked]

    def exchanges(self, server_round: int) -> int:
        return len(self.batches) + 1

    def go_on(
        self, server_round: int, exchange: int, asked: Sequence[Message], replies: Sequence[Message]
    ) -> Iterable[Message]:
        given, places = self.given, self.batches[exchange - 1]
        rng.seed_torch(given.seed, f"torch {exchange}", server_round, self.parties)
        gradients = self._learn(self.rows[places], _embeddings(replies))
        following = {ROWS: self.batches[exchange]} if exchange < len(self.batches) else {}
        return [self._message(client, {GRADIENT: gradient, **following}) for client, gradient in gradients.items()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        means = merge(self.measured)
        return self.arrays, MetricRecord({f"train_{name}": mean.value for name, mean in means.items()})

    def configure_test(self, server_round: int) -> list[Message]:
        content = RecordDict({"arrays": ArrayRecord()})
        return [Message(content, party, MessageType.EVALUATE) for party in range(self.parties)]

    @torch.no_grad()
    def aggregate_test(self, server_round: int, replies: Iterable[Message]) -> Mapping[str, Summand]:
        given, embeddings = self.given, _embeddings(replies)
        if not (embeddings or self.predicts_alone):
            return {}
        found = []
        for part in pieces(np.arange(given.data.num_tests), given.batch_size):
            its = {client: embedding[part] for client, embedding in embeddings.items()}
            self.net.embeddings = list(self._all(its, len(part)).values())
            found.append(given.task.score(self.net.eval(), self._examples(given.data.test, part)))
        return merge(found)

    def _learn(self, rows: NDArray, embeddings: Mapping[int, NDArray]) -> dict[int, NDArray]:
        """The steps of one batch; the loss's gradients at the embeddings of those who have sent one."""
        examples, known = self._examples(self.given.data.train, rows), self._all(embeddings, len(rows))
        first = {client: embedding.requires_grad_() for client, embedding in known.items()}
        self.net.embeddings = list(first.values())
        for number in range(self.local_updates):
            self.optimizer.zero_grad()
            loss, metrics = self._objective(examples)
            loss.backward()
            self.optimizer.step()
            if not number:
                self.measured.append(metrics)
                self.net.embeddings = [embedding.detach() for embedding in first.values()]
        return {client: first[client].grad.cpu().numpy() for client in embeddings}  # type: ignore[union-attr]

    def _objective(self, examples: Batch) -> tuple[Tensor, Metrics]:
        """The loss of a batch, by the embeddings that `self.net` has, and what is measured of it."""
        return self.given.task.objective(self.net, examples)

    def _all(self, embeddings: Mapping[int, NDArray], count: int) -> dict[int, Tensor]:
        """The embeddings of all parties [count, width], by party."""
        nothing = torch.zeros(count, self.width)
        sent = {client: torch.from_numpy(embedding) for client, embedding in embeddings.items()}
        return {k: sent.get(k, nothing).to(self.given.device, copy=True) for k in range(self.parties)}

    def _examples(self, columns: Mapping[str, Any], rows: NDArray) -> dict[str, Tensor]:
        batch = self.given.task.gather(columns, rows, self.given.device)
        return {**batch, "x": batch["x"][..., self.block]}

    def _message(self, client: int, beside: Mapping[str, NDArray]) -> Message:
        return Message(RecordDict({"arrays": self.arrays, BESIDE: to_record(beside)}), client, MessageType.TRAIN)

    def __getstate__(self) -> dict[str, Any]:
        """For a checkpoint: its nets, as optimisers and batches are made anew in each round."""
        return {"net": self.net}


def _embeddings(replies: Iterable[Message]) -> dict[int, NDArray]:
    """By party: what those have sent who have answered."""
    answered = [reply for reply in replies if not reply.has_error()]
    return {r.metadata.src_node_id: r.content.array_records[BESIDE][EMBEDDING].numpy() for r in answered}
