"""What FLoRA, FlexLoRA and HetLoRA have in common: adapters of ranks by client, which travel beside the vector.

An adapter changes a weight W [out, in] to W + scaling * B A, with A [r, in] and B [out, r] (Hu et al. 2021, "LoRA",
arXiv:2106.09685). Tensors have the names that peft gives them.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.storage.buffers import BESIDE, contents, to_record
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Task

A, B = ".lora_A.", ".lora_B."  # in the names of tensors

Array = TypeVar("Array", NDArray, Tensor)
Arrays = Mapping[str, NDArray]  # by the name of the tensor


def pairs(names: Iterable[str]) -> dict[str, str]:
    """The names of the B's of these tensors, by those of the A's."""
    return {name: name.replace(A, B) for name in names if A in name}


def components(name: str, tensor: Array, first: int, end: int | None = None) -> Array:
    """Some components of an adapter's tensor: rows of an A, columns of a B."""
    return tensor[first:end] if A in name else tensor[:, first:end]


def stacked(adapters: Sequence[Arrays], weights: NDArray[np.float64]) -> dict[str, NDArray]:
    """One adapter for all: A = [w_1 A_1; w_2 A_2; ...], B = [B_1 B_2 ...], of which B A is the sum of w_k B_k A_k.

    Examples:
        >>> clients = [{"x.lora_A.": np.eye(2), "x.lora_B.": np.ones((1, 2))}] * 3
        >>> {name: tensor.shape for name, tensor in stacked(clients, np.ones(3)).items()}
        {'x.lora_A.': (6, 2), 'x.lora_B.': (1, 6)}
    """
    made = {}
    for a, b in pairs(adapters[0]).items():
        made[a] = np.concatenate([weight * one[a] for weight, one in zip(weights, adapters, strict=True)])
        made[b] = np.concatenate([one[b] for one in adapters], axis=1)
    return made


class OfAdapters(FedAvg):
    """A server half that makes the new model of the clients' adapters; its yaml says `needs_each_client: true`.

    Must override:
        `known`, `sent` and `combine`.
    """

    @abstractmethod
    def known(self, client: int) -> int:
        """What decides what the client is sent: clients of whom it is equal are sent the same."""

    @abstractmethod
    def sent(self, known: int) -> Arrays:
        """The arrays for those clients; `self.model` has the tensors of the server's."""

    @abstractmethod
    def combine(self, round: int, adapters: Mapping[int, Arrays], weights: NDArray[np.float64]) -> Arrays:
        """The new model, by the adapters of those who have answered, by client, and `weights` that add up to 1."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Called by the round loop: Flower's messages without a vector, each with what its client is sent."""
        self.model = {name: contents(array) for name, array in arrays.items()}
        messages = list(super().configure_train(server_round, ArrayRecord(), config, grid))
        made: dict[int, RecordDict] = {}  # one record for all who are sent the same
        for message in messages:
            known = self.known(message.metadata.dst_node_id)
            if known not in made:
                made[known] = RecordDict({**message.content, BESIDE: to_record(self.sent(known))})
            message.content = made[known]
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Called by the round loop: the replies of those who answered are taken apart for `combine`."""
        answered = {reply.metadata.src_node_id: reply.content for reply in replies if not reply.has_error()}
        if not answered:
            return None, None
        records = list(answered.values())
        metrics = self.train_metrics_aggr_fn(records, self.weighted_by_key)
        weights = np.array([next(iter(r.metric_records.values()))[self.weighted_by_key] for r in records], np.float64)
        adapters = {
            client: {name: contents(array) for name, array in record.array_records[BESIDE].items()}
            for client, record in answered.items()
        }
        made = self.combine(server_round, adapters, weights / weights.sum())
        self.model = {}  # a checkpoint has it anyway
        return to_record({name: values.astype(np.float32) for name, values in made.items()}), metrics


class Adapting(LocalAlgorithm):
    """Client k trains adapters of `ranks[k % len(ranks)]` components, or with None of as many as the model has.

    Those that the model has beyond are 0 in A and in B: then so are their gradients, and they stay 0.
    """

    protected_by = ()
    stacks = False
    only_beside = True

    def __init__(self, ranks: list[int] | None) -> None:
        if ranks is not None and min(ranks, default=0) < 1:
            raise ValueError(f"ranks={ranks}: must be a list of ranks of 1 or more, or null for the model's")
        self.ranks = ranks

    def model(self, task: Task, data: FederatedData) -> nn.Module:
        model = task.model(data)
        tensors = {name: model.state_dict()[name] for name in task.shared(model)}
        adapters = pairs(tensors)
        if not adapters or tensors.keys() != {*adapters, *adapters.values()}:
            wish = "needs adapters of which A and B travel, and nothing else; use task=instruct with model.lora=both"
            raise ConfigError(f"strategy: this one {wish}")
        self.rank = min(len(tensors[name]) for name in adapters)
        most = min(min(tensors[a].shape[1], len(tensors[b])) for a, b in adapters.items())
        if self.rank > most:
            raise ConfigError(f"model.rank={self.rank}: must be at most {most}, the least side of a weight")
        if self.ranks is not None and max(self.ranks) > self.rank:
            raise ConfigError(f"strategy.ranks={self.ranks}: must not be above the model's rank {self.rank}")
        return model

    def rank_of(self, turn: Turn) -> int:
        """How many components the client's adapters have."""
        return given_rank(turn.client, self.ranks) or self.rank


def given_rank(client: int, ranks: Sequence[int] | None) -> int | None:
    """The rank of a client's adapters; None is the model's."""
    return None if ranks is None else ranks[client % len(ranks)]


class Truncating(OfAdapters):
    """The model is adapters of the largest rank, and a client is sent their first components, as many as its rank.

    Must override:
        `combine`.
    """

    def __init__(self, ranks: list[int] | None) -> None:
        super().__init__()
        self.ranks = ranks

    def known(self, client: int) -> int:
        return given_rank(client, self.ranks) or min(len(self.model[name]) for name in pairs(self.model))

    def sent(self, known: int) -> Arrays:
        return {name: np.ascontiguousarray(components(name, tensor, 0, known)) for name, tensor in self.model.items()}


class Truncated(Adapting):
    """A client that goes on with the adapters that it is sent; it is evaluated with as many components."""

    def begin(self, turn: Turn) -> None:
        turn.parameters.zero_()
        for name, tensor in turn.split(turn.parameters).items():
            components(name, tensor, 0, self.rank_of(turn)).copy_(turn.beside[name])

    def finish(self, turn: Turn) -> None:
        for name, tensor in turn.split(turn.parameters).items():
            turn.sends[name] = components(name, tensor, 0, self.rank_of(turn))

    @torch.no_grad()
    def personalize(self, turn: Turn) -> None:
        for name, tensor in turn.split(turn.parameters).items():
            components(name, tensor, self.rank_of(turn)).zero_()
