"""What a reference may know of a run: a tiny task, its model in float64, who has which rows, the order of batches."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fl_bench import rng
from fl_bench.data.arrays import FederatedData, batches
from fl_bench.data.partition import Partition
from fl_bench.tasks.base import Batch as Columns
from fl_bench.tasks.base import Classifier

Vector = Tensor  # float64 [P]: all numbers of a model that are no counters, in the order of its state_dict

KINDS = ("linear", "mlp", "norm")
STATISTICS = ("running_mean", "running_var")
SOURCES = (10, 16, 22)  # rows of each client, of which a fifth is held out: it trains on 8, 13 and 18


class Tiny(Classifier):
    """Three classes of points with six coordinates, which lie elsewhere at each client."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def load_embedded(self, folder: Path) -> FederatedData:
        draw = np.random.default_rng(3)
        source = np.repeat(np.arange(3), SOURCES)
        x = draw.normal(size=(sum(SOURCES), 6)) + draw.normal(size=(3, 6))[source] / 2
        y = (x @ draw.normal(size=(6, 3)) + draw.normal(size=(sum(SOURCES), 3))).argmax(axis=1)
        train = {"x": x.astype(np.float32), "y": y, "source": source}
        return FederatedData(train, {name: column[::5] for name, column in train.items()}, ("a", "b", "c"))

    def model(self, data: FederatedData) -> nn.Module:
        return network(self.kind)

    def logits(self, model: nn.Module, batch: Columns) -> Tensor:
        scores: Tensor = model(batch["x"])
        return scores


def network(kind: str) -> nn.Sequential:
    """One layer; two, without a kink at which float32 might take another side; or two and BatchNorm.

    Its eps is large, since to divide by the deviation of three rows that lie near together enlarges what float32 loses.
    """
    if kind == "linear":
        return nn.Sequential(nn.Linear(6, 3))
    norm = [nn.BatchNorm1d(5, eps=0.1)] if kind == "norm" else []
    return nn.Sequential(nn.Linear(6, 5), *norm, nn.Tanh(), nn.Linear(5, 3))


class Batch(NamedTuple):
    x: Tensor  # float64 [B, 6]
    y: Tensor  # int64 [B]


class World:
    """What a reference may know of a run."""

    def __init__(self, cfg: DictConfig, data: Path) -> None:
        self.cfg, self.seed, self.lr = cfg, int(cfg.seed), float(cfg.local.lr)
        self.clients = range(cfg.num_clients)
        columns, self.partition = FederatedData.open(data).train, Partition.open(data)
        self.x, self.y = torch.tensor(columns["x"]).double(), torch.tensor(columns["y"])
        rng.seed_torch(self.seed, "model")
        self.module = network(cfg.task.kind).double()
        tensors = {name: tensor for name, tensor in self.module.state_dict().items() if tensor.is_floating_point()}
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.first: Vector = torch.cat([tensor.flatten() for tensor in tensors.values()])
        self.parameters = self.where(lambda name: not name.endswith(STATISTICS))  # bool [P]

    def split(self, w: Vector) -> dict[str, Tensor]:
        """The tensors of a model by name, as views."""
        parts = w.split([prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def where(self, wanted: Callable[[str], bool]) -> Tensor:
        """Which numbers are of tensors with a wanted name: bool [P]."""
        return torch.cat([torch.full((prod(shape),), wanted(name)) for name, shape in self.shapes.items()])

    # Who trains on what, and in which order.

    def rounds(self) -> Iterator[tuple[int, list[int]]]:
        """The rounds, from 1, and who takes part in each."""
        return ((round, self.cohort(round)) for round in range(1, self.cfg.num_rounds + 1))

    def cohort(self, round: int) -> list[int]:
        """A uniform sample of the clients."""
        draw = rng.generator(self.seed, "cohort", round)
        chosen = draw.choice(len(self.clients), self.cfg.clients_per_round, replace=False, shuffle=False)
        return sorted(map(int, chosen))

    def weight(self, client: int) -> int:
        """How many examples a client trains on."""
        return len(self.partition.train_rows(client))

    def part(self, clients: Iterable[int]) -> float:
        """How much of all examples these clients have."""
        return sum(map(self.weight, clients)) / sum(map(self.weight, self.clients))

    def stream(self, round: int, client: int, purpose: str = "batches", rows: NDArray | None = None) -> Iterator[Batch]:
        """A client's batches without end."""
        rows = self.partition.train_rows(client) if rows is None else rows
        order = batches(rows, self.cfg.local.batch_size, rng.generator(self.seed, purpose, round, client))
        return (self.batch(part) for part in order)

    def batches(self, round: int, client: int, purpose: str = "batches") -> Iterator[Batch]:
        """Those of its local epochs."""
        return islice(self.stream(round, client, purpose), self.steps(client))

    def steps(self, client: int) -> int:
        epoch: int = -(-self.weight(client) // self.cfg.local.batch_size)
        return int(self.cfg.local.epochs * epoch)

    def batch(self, rows: NDArray) -> Batch:
        places = torch.tensor(rows)
        return Batch(self.x[places], self.y[places])

    # The model.

    def scores(self, w: Vector, x: Tensor) -> Tensor:
        """The logits [B, 3] of the model w; in training mode BatchNorm counts on, in place."""
        counted = {name: part for name, part in self.split(w.data).items() if name.endswith(STATISTICS)}
        scores: Tensor = functional_call(self.module, self.split(w) | counted, (x,))
        return scores

    def loss(self, w: Vector, batch: Batch) -> Tensor:
        return cross_entropy(self.scores(w, batch.x), batch.y)

    def gradient(self, w: Vector, batch: Batch, loss: Callable[[Vector, Batch], Tensor] | None = None) -> Vector:
        """The gradient [P] at w, 0 for statistics, which are counted on in w."""
        here = w.detach().requires_grad_()
        gradient: Vector = torch.autograd.grad((loss or self.loss)(here, batch), here)[0]
        return gradient

    def step(self, w: Vector, direction: Vector, length: float | None = None) -> Vector:
        """The model one step further against a direction [P]; statistics are never stepped."""
        return torch.where(self.parameters, w - (self.lr if length is None else length) * direction, w)

    def move(self, w: Vector, direction: Vector, mean: Vector) -> Vector:
        """A server's step along a direction; statistics become the clients' mean."""
        return torch.where(self.parameters, w + direction, mean)

    def heldout(self, w: Vector, client: int) -> tuple[float, float]:
        """Loss and accuracy of the model w on what a client holds out, in evaluation mode."""
        batch = self.batch(self.partition.heldout_rows(client))
        self.module.eval()
        scores = self.scores(w, batch.x)
        self.module.train()
        return float(cross_entropy(scores, batch.y)), float((scores.argmax(1) == batch.y).double().mean())


class Visit(NamedTuple):
    """One client in one round."""

    world: World
    round: int
    client: int
    kept: dict[str, Vector]  # from round to round

    def batches(self, purpose: str = "batches") -> Iterator[Batch]:
        return self.world.batches(self.round, self.client, purpose)
