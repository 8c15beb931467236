"""A client of split learning over columns: it has some columns of the rows, and no labels."""

import copy
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_bench.data.arrays import FederatedData, pieces
from fl_bench.strategies.base import LocalAlgorithm, Planned
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Metrics, Task
from fl_bench.vertical.nets import joined

ROWS, EMBEDDING, GRADIENT = "rows", "embedding", "gradient"  # the names of what travels


class Party(LocalAlgorithm):
    """Sends embeddings of the rows that it is told, and takes its steps along the gradients that come back.

    Vepakomma et al. 2018, arXiv:1812.00564, and for columns Ceballos et al. 2020, arXiv:2008.04137. With
    `local_updates` it takes several steps along a gradient, each with the embedding's derivative where its net then is:
    FedBCD (Liu et al. 2022, arXiv:1912.11187, algorithm 1). `noise` is the standard deviation of what it adds to each
    number of an embedding; no privacy is counted for it.
    """

    protected_by = ()
    stacks = False
    measures = False
    has_test = True

    def __init__(
        self, num_clients: int, columns: str, width: int, hidden: Sequence[int], local_updates: int, noise: float
    ) -> None:
        for name, value, least in (("width", width, 1), ("local_updates", local_updates, 1), ("noise", noise, 0)):
            if not value >= least:
                raise ValueError(f"{name}={value}: must be {least} or more")
        self.shape = {"num_clients": num_clients, "columns": columns, "width": width, "hidden": hidden}
        self.width, self.local_updates, self.noise = width, local_updates, noise

    def model(self, task: Task, data: FederatedData) -> nn.Module:
        return joined(task, data, **self.shape).requires_grad_(False)  # type: ignore[arg-type]

    def private(self, model: nn.Module) -> set[str]:
        return set(model.state_dict())

    def steps(self, sizes: NDArray[np.int64], local: Mapping[str, Any]) -> NDArray[np.int64]:
        return super().steps(sizes, local) * self.local_updates

    def planned(self, sizes: NDArray[np.int64], local: Mapping[str, Any]) -> Sequence[Planned]:
        epoch = [len(part) for part in pieces(np.arange(sizes.max(initial=0)), local["batch_size"])]
        counts = list(islice(cycle(epoch), local["steps"] or local["epochs"] * len(epoch)))
        rows = [{ROWS: np.empty(count, np.int32)} for count in counts]
        numbers = [np.empty((count, self.width), np.float32) for count in counts]
        steps = (sizes > 0) * self.local_updates
        first = Planned(0 * steps, rows[0], {EMBEDDING: numbers[0]})
        between = [
            Planned(steps, {GRADIENT: numbers[k - 1], **rows[k]}, {EMBEDDING: numbers[k]})
            for k in range(1, len(counts))
        ]
        return [first, *between, Planned(steps, {GRADIENT: numbers[-1]})]

    def begin(self, turn: Turn) -> None:
        turn.work.net = self._net(turn).requires_grad_(True)
        turn.work.optimizer = turn.task.optimizer(turn.work.net, turn.local)

    def train(self, turn: Turn) -> list[Metrics]:
        self._embed(turn)
        return []

    def go_on(self, turn: Turn) -> list[Metrics]:
        optimizer, gradient = turn.work.optimizer, turn.beside[GRADIENT]
        for number in range(self.local_updates):
            if number:
                turn.work.embedding = self._embedding(turn, turn.work.net, turn.work.rows)
            optimizer.zero_grad()
            turn.work.embedding.backward(gradient)
            optimizer.step()
            turn.steps += 1
        if ROWS in turn.beside:
            self._embed(turn)
        return []

    def finish(self, turn: Turn) -> None:
        turn.state = dict(turn.work.net.state_dict())

    def test(self, turn: Turn, columns: Mapping[str, Any]) -> None:
        net = self._net(turn).eval()
        parts = np.array_split(np.arange(len(columns["x"])), -(-len(columns["x"]) // 512))
        found = [self._of(turn, net, turn.task.gather(columns, rows, turn.parameters.device)["x"]) for rows in parts]
        turn.sends[EMBEDDING] = self._noisy(torch.cat(found))

    def _net(self, turn: Turn) -> nn.Module:
        """The party's bottom net, as it has kept it. What the worker's model has is its beginning."""
        turn.private = {}  # it keeps its own part by itself
        net = copy.deepcopy(turn.model.get_submodule(f"bottoms.{turn.client}"))
        if turn.state:
            net.load_state_dict(turn.state)
        return net

    def _embed(self, turn: Turn) -> None:
        turn.work.rows = turn.beside[ROWS].cpu().numpy()
        turn.work.embedding = self._embedding(turn, turn.work.net, turn.work.rows)
        turn.sends[EMBEDDING] = self._noisy(turn.work.embedding.detach())

    def _embedding(self, turn: Turn, net: nn.Module, rows: NDArray) -> Tensor:
        return self._of(turn, net, turn.examples(rows)["x"])

    @staticmethod
    def _of(turn: Turn, net: nn.Module, x: Tensor) -> Tensor:
        """The embedding [B, width] of these examples, of which it looks at its own columns only."""
        block = turn.model.blocks[turn.client]  # type: ignore[index]
        found: Tensor = turn.task.logits(net, {"x": x[..., block]})  # type: ignore[attr-defined]
        return found

    def _noisy(self, embedding: Tensor) -> Tensor:
        return embedding + self.noise * torch.randn_like(embedding) if self.noise else embedding
