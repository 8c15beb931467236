"""SplitFed (Thapa et al. 2022, arXiv:2004.12088): clients train the first modules of a model, the server the others.

A client sends what its part makes of a batch, and the labels; the server takes a step on its own part, and sends the
loss's gradient back, along which the client takes its step. At the end of a round the clients' parts are averaged.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from torch import nn

from fl_bench import rng
from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.metrics import merge
from fl_bench.storage.buffers import BESIDE, to_record
from fl_bench.strategies.base import LocalAlgorithm, Planned
from fl_bench.strategies.server import Given, OwnPart
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Classifier, Metrics, Task
from fl_bench.tasks.rates import of_round

ACTIVATIONS, LABELS, GRADIENT = "activations", "labels", "gradient"  # the names of what travels beside a model
ONE = -1  # whose is the one upper half


def halves(model: nn.Module, cut: int | None) -> tuple[nn.Sequential, nn.Sequential]:
    """The first `cut` modules of a model and the others, with its own tensors under their own names.

    By default the second begins with the second module that has weights, matrices or kernels.

    Raises:
        ConfigError: where the model is no chain of modules, or one of the halves has no weights.

    Examples:
        >>> lower, upper = halves(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), None)
        >>> list(lower.state_dict()), list(upper.state_dict())
        (['1.weight', '1.bias'], ['3.weight', '3.bias'])
    """
    if not isinstance(model, nn.Sequential):
        wish = "is no chain of modules (nn.Sequential), and cannot be cut; use model=mlp, lenet5, blitz or another"
        raise ConfigError(f"strategy: {type(model).__name__} {wish}")
    weighty = [number for number, module in enumerate(model) if any(p.ndim > 1 for p in module.parameters())]
    if len(weighty) < 2:
        raise ConfigError("strategy: the model has one layer, and both halves need some; use model=mlp, lenet5, ...")
    place = weighty[1] if cut is None else cut
    if not weighty[0] < place <= weighty[-1]:
        names = ", ".join(f"{number} {type(module).__name__}" for number, module in enumerate(model))
        wish = f"must be from {weighty[0] + 1} to {weighty[-1]}, or null, as both halves need weights; modules"
        raise ConfigError(f"strategy.cut={cut}: {wish}: {names}")
    return model[:place], model[place:]


class Lower(LocalAlgorithm):
    """The client half: it has the labels, and sends them."""

    protected_by = ()
    stacks = False
    measures = False

    def __init__(self, cut: int | None) -> None:
        self.cut = cut

    def suit(self, task: Task) -> None:
        if not isinstance(task, Classifier) or type(task).objective is not Classifier.objective:
            wish = "the server has scores and labels, and needs a loss of these; use mnist, cifar, tabular, ..."
            raise ConfigError(f"task: {type(task).__name__} cannot be had with splitfed: {wish}")

    def model(self, task: Task, data: FederatedData) -> nn.Module:
        self.suit(task)
        model = task.model(data)
        lower = copy.deepcopy(halves(model, self.cut)[0]).eval()
        with torch.no_grad():
            row = task.logits(lower, task.gather(data.train, np.zeros(1, np.int64), "cpu"))  # type: ignore[attr-defined]
        self.at_cut = row.shape[1:]
        return model

    def served(self, model: nn.Module) -> set[str]:
        return set(halves(model, self.cut)[1].state_dict())

    def planned(self, sizes: NDArray[np.int64], local: Mapping[str, Any]) -> Sequence[Planned]:
        """Batches of all clients are taken to be as large as the largest client's."""
        steps, rows = self.steps(sizes, local), min(local["batch_size"], sizes.max())
        there = {ACTIVATIONS: np.empty((rows, *self.at_cut), np.float32), LABELS: np.empty(rows, np.int64)}
        back, last = {GRADIENT: there[ACTIVATIONS]}, steps.max() - 1
        later = [Planned((steps > k).astype(np.int64), back, {} if k == last else there) for k in range(last + 1)]
        return [Planned(0 * steps, up=there), *later]

    def begin(self, turn: Turn) -> None:
        work = turn.work
        work.net = copy.deepcopy(halves(turn.model, self.cut)[0])  # in between others have turns with the model
        work.batches, work.optimizer = turn.batches(), turn.task.optimizer(work.net, turn.local)

    def train(self, turn: Turn) -> list[Metrics]:
        self._send(turn)
        return []

    def go_on(self, turn: Turn) -> list[Metrics]:
        if GRADIENT in turn.beside:
            turn.work.optimizer.zero_grad()
            turn.work.activations.backward(turn.beside[GRADIENT])
            turn.work.optimizer.step()
            turn.steps += 1
            self._send(turn)
        return []

    def finish(self, turn: Turn) -> None:
        turn.model.load_state_dict(turn.work.net.state_dict(), strict=False)

    @staticmethod
    def _send(turn: Turn) -> None:
        """What the next batch is at the cut, where there is one."""
        if (batch := next(turn.work.batches, None)) is not None:
            turn.work.activations = turn.task.logits(turn.work.net, batch)  # type: ignore[attr-defined]
            turn.sends = {ACTIVATIONS: turn.work.activations.detach(), LABELS: batch["y"]}


class SplitFed(FedAvg, OwnPart):
    """The server half. With `v1` there is an upper half for each client, which are averaged as the lower ones are; with
    `v2` only one, which all clients' batches train, one client after the other in an order drawn for the round.

    A client that fails in mid-round is in no mean; what its batches have changed in the one upper half of `v2` stays.
    """

    splits = True

    def __init__(self, variant: Literal["v1", "v2"], cut: int | None) -> None:
        super().__init__()
        self.variant, self.cut = variant, cut

    def use(self, given: Given) -> None:
        self.given = given
        self.fresh = copy.deepcopy(halves(given.model, self.cut)[1])
        sizes, local = given.partition.train_sizes, given.local
        self.most = int(local["steps"] or local["epochs"] * -(-sizes.max() // local["batch_size"]))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        given, names = self.given, self.fresh.state_dict().keys() & arrays.keys()
        self.fresh.load_state_dict({name: torch.tensor(arrays[name].numpy()) for name in names}, strict=False)
        self.arrays = arrays
        self.local = of_round(given.local, server_round)
        order = rng.generator(given.seed, "server order", server_round)
        self.order = order.permutation(len(given.partition.train_sizes))
        self.nets: dict[int, tuple[nn.Module, Any]] = {}  # with their optimisers, by client, or only one
        self.weights: dict[int, float] = {}  # of those who are there, by client
        self.measured: dict[int, list[Metrics]] = {}
        sent = ArrayRecord({name: array for name, array in arrays.items() if name not in names})
        messages = list(super().configure_train(server_round, sent, config, grid))
        self.content = messages[0].content if messages else RecordDict()
        return messages

    def exchanges(self, server_round: int) -> int:
        """As many as the most batches that a client may have, and one more for the last gradient."""
        return self.most + 1

    def go_on(
        self, server_round: int, exchange: int, asked: Sequence[Message], replies: Sequence[Message]
    ) -> Iterable[Message]:
        answers = {reply.metadata.src_node_id: reply.content for reply in replies if not reply.has_error()}
        if exchange == 1:
            self.weights = {client: _number_of_examples(content) for client, content in answers.items()}
        for client in {message.metadata.dst_node_id for message in asked} - answers.keys():
            self.weights.pop(client, None)
        sent = {client: content.array_records[BESIDE] for client, content in answers.items() if BESIDE in content}
        gradients = {}
        for client in sorted(sent, key=self.order.__getitem__):
            rng.seed_torch(self.given.seed, f"server {exchange}", server_round, client)
            batch = (sent[client][name].numpy() for name in (ACTIVATIONS, LABELS))
            gradients[client] = {GRADIENT: self._learn(client, *batch)}
        last = exchange == self.exchanges(server_round) - 1
        due = sorted(self.weights if last else gradients)  # who had fewer batches waits for the last exchange
        return [self._message(client, gradients.get(client, {})) for client in due]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        mean, _ = super().aggregate_train(server_round, replies)
        if mean is None:
            return None, None
        failed = {reply.metadata.src_node_id for reply in replies if reply.has_error()}
        there = sorted(self.weights.keys() - failed)
        upper = self._averaged(there) if self.variant == "v1" else self.nets[ONE][0].state_dict()
        means = merge(metrics for client in there for metrics in self.measured[client])
        arrays = {name: Array(upper[name].cpu().numpy()) if name in upper else mean[name] for name in self.arrays}
        return ArrayRecord(arrays), MetricRecord({f"train_{name}": found.value for name, found in means.items()})

    def _learn(self, client: int, activations: NDArray, labels: NDArray) -> NDArray:
        """A step of the client's upper half, or of the one; the loss's gradient at the activations."""
        key = client if self.variant == "v1" else ONE
        if key not in self.nets:
            fresh = copy.deepcopy(self.fresh).train()
            self.nets[key] = fresh, self.given.task.optimizer(fresh, self.local)
        net, optimizer = self.nets[key]
        task, device = self.given.task, self.given.device
        assert isinstance(task, Classifier)
        at_cut = torch.from_numpy(activations).to(device, copy=True).requires_grad_()
        optimizer.zero_grad()
        loss, metrics = task.loss(net(at_cut), torch.from_numpy(labels).to(device))
        loss.backward()
        optimizer.step()
        self.measured.setdefault(client, []).append(metrics)
        assert at_cut.grad is not None
        gradient: NDArray = at_cut.grad.cpu().numpy()
        return gradient

    def _averaged(self, clients: Sequence[int]) -> Mapping[str, torch.Tensor]:
        """The mean of the clients' upper halves, by their weights; of float64 sums in the order of the clients."""
        total = sum(self.weights[client] for client in clients)
        states = [self.nets[client][0].state_dict() for client in clients]
        shares = [self.weights[client] / total for client in clients]
        return {
            name: torch.stack([state[name].double() * share for state, share in zip(states, shares, strict=True)])
            .sum(0)
            .float()
            for name in self.fresh.state_dict()
        }

    def _message(self, client: int, beside: Mapping[str, NDArray]) -> Message:
        content = RecordDict({**self.content, **({BESIDE: to_record(beside)} if beside else {})})
        return Message(content, client, MessageType.TRAIN)

    def __getstate__(self) -> dict[str, Any]:
        """For a checkpoint: nothing, as its half is a part of the global model."""
        return {}


def _number_of_examples(content: RecordDict) -> float:
    (record,) = content.metric_records.values()
    return float(record["num-examples"])  # type: ignore[arg-type]
