"""What every task is made of; a new one overrides what it does differently."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional

from fl_bench.build import call, nearest
from fl_bench.data.arrays import Columns, FederatedData, pieces
from fl_bench.errors import ConfigError
from fl_bench.metrics import Mean, Metric, Summand, merge
from fl_bench.models.chosen import model_of
from fl_bench.results import classes
from fl_bench.tallies import KINDS, Tally
from fl_bench.tasks.sgd import SGD, Clipped

Batch = Mapping[str, Tensor]
Metrics = dict[str, Mean]


def gather(columns: Columns, rows: NDArray, device: torch.device | str = "cpu") -> Batch:
    """The examples of these rows as tensors [len(rows), ...].

    Examples:
        >>> gather({"y": np.array([5, 6, 7])}, np.array([2, 0]))
        {'y': tensor([7, 5])}
    """
    return {name: torch.from_numpy(column[rows]).to(device) for name, column in columns.items()}


def batch_mean(value: Tensor, count: int) -> Mean:
    """A value that is already the mean over a batch of `count` examples, as a sum that adds up.

    Examples:
        >>> batch_mean(torch.tensor(0.5), 4)
        Mean(total=tensor(2., dtype=torch.float64), count=4)
    """
    return Mean(value.detach().double() * count, count)


class Task(ABC):
    """Data, model, loss and metrics. Built from `conf/task/*.yaml` in the driver and once in every worker.

    Must override:
        `model`, `objective`, and a method `load_<source>(self, folder, ...) -> FederatedData` for each source of data,
        `load_embedded` among them. Its other arguments are the keys of `conf/data/<option>.yaml`, checked against their
        types.

    May override:
        `gather`, where a batch is more than the rows of the columns; `step` and `optimizer`, where a step is not one of
        one loss; `score`, where evaluation differs from training; `shared` and `private`, for what does not travel;
        `measure`, `picture`, `tables` and `figures`, for what is said of the global model. And the class attributes
        below: those with metrics of their own declare them in `metrics`.

    Training data must have a column "y", int64, that says of each row which of `classes` it is of: partitions and
    `partition.csv` read it. Random numbers are drawn from torch's global generator, which is seeded before each use.
    """

    metrics: Sequence[Metric] = (Metric("loss", better="lower"),)  # all that `objective`, `score` and `measure` give
    fits_rows = False  # whether columns depend on other rows too, as where they are scaled or words are numbered
    not_loaded: Sequence[str] = ()  # of its arguments, those that no `load_<source>` reads: data.cache need not know
    tells_classes = True  # whether the model does; where not, other data may have others
    one_loss = True  # whether a step minimises one loss, that of `objective`

    def load(self, data: DictConfig, folder: Path) -> FederatedData:
        """The data of `data.source`, by this task's method `load_<source>`, which takes the node's other entries.

        Large columns may be made in `folder`, where the workers will map them.

        Raises:
            ConfigError: where there is no such method, or the entries do not fit its arguments.
        """
        loaders = {name.removeprefix("load_"): getattr(self, name) for name in dir(self) if name.startswith("load_")}
        if data.source not in loaders:
            name = type(self).__name__
            raise ConfigError(
                f"data.source={data.source}: {name} has no such data; {nearest(str(data.source), loaders)}"
            )
        loaded: FederatedData = call(loaders[data.source], data, skip=["source", "cache"], folder=folder)
        return loaded

    def gather(self, columns: Columns, rows: NDArray, device: torch.device | str) -> Batch:
        """The examples of these rows, as `objective` and `score` take them."""
        return gather(columns, rows, device)

    @abstractmethod
    def model(self, data: FederatedData) -> nn.Module:
        """A new model that fits the data; its random values come from torch's global seed."""

    @abstractmethod
    def objective(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss to minimise, a scalar, and the metrics of this batch as sums and counts, "loss" among them.

        `batch` has the columns of the data as tensors [B, ...]; see `batch_mean`.
        """

    def step(self, model: nn.Module, batch: Batch, optimizer: Any, correct: Callable[[], None]) -> Metrics:
        """One optimiser step, and its metrics; `correct` lets the strategy change the gradients before it is taken."""
        optimizer.zero_grad()
        loss, metrics = self.objective(model, batch)
        loss.backward()
        correct()
        optimizer.step()
        return metrics

    def step_in_pieces(
        self, model: nn.Module, batch: Batch, optimizer: Any, correct: Callable[[], None], pieces: int
    ) -> Metrics:
        """The same step of a batch that is worked on in so many pieces, or as many as it has examples, one by one.

        The gradients of their losses, by their share of the examples, add up to that of the whole.
        """
        optimizer.zero_grad()
        count = len(next(iter(batch.values())))
        found = []
        for rows in np.array_split(np.arange(count), min(pieces, count)):
            loss, metrics = self.objective(model, {name: column[rows] for name, column in batch.items()})
            (loss * (len(rows) / count)).backward()
            found.append(metrics)
        correct()
        optimizer.step()
        return merge(found)

    def measure_also(self, names: Sequence[str]) -> None:
        """Let `score` give the metrics of `evaluate.metrics` too, and declare them. Raises ConfigError."""
        if names:
            wish = f"are of classifiers, and {type(self).__name__} is none; use evaluate.metrics=[]"
            raise ConfigError(f"evaluate.metrics=[{','.join(names)}]: {wish}")

    def declared(self, names: Iterable[str]) -> None:
        """Raise ConfigError where `metrics` lacks one of these: nobody would know which way it gets better."""
        if unknown := [name for name in names if name not in {metric.name for metric in self.metrics}]:
            task = type(self).__name__
            raise ConfigError(
                f"task: {task} measures {unknown[0]} and does not declare it; {task}.metrics needs "
                f'Metric("{unknown[0]}", better="lower"), or "higher"'
            )

    def score(self, model: nn.Module, batch: Batch) -> Mapping[str, Summand]:
        """The metrics of a model in evaluation mode on one batch."""
        return self.objective(model, batch)[1]

    def optimizer(self, model: nn.Module, local: Mapping[str, Any]) -> Any:
        """A fresh optimiser for one client's turn, from the node `local`: what `step` is given."""
        options = dict(local["optimizer"])
        name = options.pop("name")
        kind = SGD if name == "SGD" else getattr(torch.optim, name)
        trained: list[Any] = [p for p in model.parameters() if p.requires_grad]
        if local["decay"] == "weights":  # biases and what norms scale by are vectors
            vectors = [p for p in trained if p.ndim < 2]
            trained = [{"params": [p for p in trained if p.ndim > 1]}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = kind(trained, lr=local["lr"], **options)
        return optimizer if local["clip_norm"] is None else Clipped(optimizer, local["clip_norm"])

    def shared(self, model: nn.Module) -> list[str]:
        """The names of the tensors that travel and are averaged; integer buffers are counters and stay behind."""
        return [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]

    def private(self, model: nn.Module) -> set[str]:
        """The names of tensors that stay with each client, whatever the strategy."""
        return set()

    def measure(self, model: nn.Module, data: FederatedData) -> dict[str, float]:
        """Metrics of the global model that do not add up over examples; written as test metrics at each evaluation."""
        return {}

    def picture(self, model: nn.Module, data: FederatedData) -> NDArray[np.uint8] | None:
        """What the model does, as an image [H, W, 3] of the same size each time; drawn every few rounds."""
        return None

    def tables(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        """Write what the final model does into tables in `folder`, that of the run."""

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        """Draw what the final model does into PNG files in `folder`; import matplotlib here, not in the workers."""


class Classifier(Task):
    """Labels as column "y"; cross-entropy and accuracy of what `logits` says.

    Must override:
        `logits`, `model` and the sources of data.
    """

    metrics = (*Task.metrics, Metric("accuracy", better="higher"))
    not_loaded: Sequence[str] = ("label_smoothing", "class_weights")
    label_smoothing: float = 0.0  # of the loss in training: Szegedy et al. 2016, arXiv:1512.00567, section 7
    class_weights: Sequence[float] | None = None  # [classes]: of examples in the loss in training
    also: Sequence[str] = ()  # of KINDS (tallies.py), what `score` gives beside

    def __init__(self, label_smoothing: float = 0.0, class_weights: list[float] | None = None) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be from 0 to below 1")
        if class_weights is not None and not (min(class_weights, default=-1) >= 0 < sum(class_weights)):
            raise ValueError(f"class_weights={class_weights}: must be numbers from 0, not all of them 0")
        self.label_smoothing, self.class_weights = label_smoothing, class_weights

    def check_classes(self, data: FederatedData) -> None:
        """Raise ConfigError where there is nothing to tell apart, or `class_weights` are not of the data's classes."""
        if len(data.classes) < 2:
            raise ConfigError(f"data: has the class {data.classes[0]} only; two or more can be told apart")
        if self.class_weights is not None and len(self.class_weights) != len(data.classes):
            wish = f"must have one for each of the {len(data.classes)} classes"
            raise ConfigError(f"task.class_weights={self.class_weights}: {wish}")

    @abstractmethod
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's scores [B, classes]."""

    def objective(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        return self.loss(self.logits(model, batch), batch["y"])

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Metrics]:
        """What `objective` gives, of scores [B, classes] and labels [B]."""
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        loss = functional.cross_entropy(logits, labels, weights, label_smoothing=self.label_smoothing)
        return loss, self._measured(logits, labels, loss)

    def measure_also(self, names: Sequence[str]) -> None:
        if unknown := [name for name in names if name not in KINDS]:
            raise ConfigError(f"evaluate.metrics=[{','.join(names)}]: {unknown[0]}: {nearest(unknown[0], KINDS)}")
        self.also = tuple(names)
        self.metrics = (*type(self).metrics, *(KINDS[name].metric for name in names))

    def score(self, model: nn.Module, batch: Batch) -> Mapping[str, Summand]:
        logits, labels = self.logits(model, batch), batch["y"]
        means = self._measured(logits, labels, functional.cross_entropy(logits, labels))
        if not self.also:  # else each batch is copied from the GPU
            return means
        arrays = logits.detach().double().cpu().numpy(), labels.cpu().numpy()
        return {**means, **{name: Tally.of(name, *arrays) for name in self.also}}

    @staticmethod
    def _measured(logits: Tensor, labels: Tensor, loss: Tensor) -> Metrics:
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        count = len(labels)
        return {"loss": batch_mean(loss, count), "accuracy": Mean(correct, count)}

    def tables(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        classes.write(folder, data.test["y"], self.predict(model, data), data.classes)

    @torch.no_grad()
    def predict(self, model: nn.Module, data: FederatedData) -> NDArray:
        """The predicted label of every test example, int64."""
        model.eval()
        rows = np.arange(len(data.test["y"]))
        device = next(iter(model.state_dict().values())).device
        parts = [self.logits(model, self.gather(data.test, part, device)) for part in pieces(rows, 512)]
        return torch.cat(parts).argmax(dim=1).cpu().numpy()


class ByName(Classifier):
    """A classifier that takes any model of the group `model`: its yaml has `model: ${model}`.

    Examples are column "x" [N, *shape], and the model gives as many numbers as there are classes.
    """

    not_loaded = (*Classifier.not_loaded, "model")

    def __init__(
        self, model: DictConfig, label_smoothing: float = 0.0, class_weights: list[float] | None = None
    ) -> None:
        super().__init__(label_smoothing, class_weights)
        self.chosen = model

    def model(self, data: FederatedData) -> nn.Module:
        self.check_classes(data)
        return model_of(self.chosen, len(data.classes), shape=data.train["x"].shape[1:])


class ImageClassifier(Classifier):
    """Images as column "x", uint8 [N, channels, height, width].

    Must override:
        `model` and the sources of data. The model takes float32 [B, channels, height, width] and returns [B, classes].

    May override:
        `mean` and `std`, by which pixels from 0 to 1 are normalised, and `channels_last`.
    """

    mean: float = 0.0
    std: float = 1.0
    channels_last = False  # on the CPU convolutions are faster with the channels of a pixel side by side

    def gather(self, columns: Columns, rows: NDArray, device: torch.device | str) -> Batch:
        batch = dict(super().gather(columns, rows, device))
        if self.channels_last and device == "cpu":
            batch["x"] = batch["x"].contiguous(memory_format=torch.channels_last)
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        # Normalised after the gather, so that uint8 is all that is stored and moved.
        scores: Tensor = model(batch["x"].float().div_(255).sub_(self.mean).div_(self.std))
        return scores
