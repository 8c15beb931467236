"""Attacks that want certain examples to be called one class, the target, and leave the others alone."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_bench.attacks.base import Floats, Malicious, need_classes
from fl_bench.config.rules import require
from fl_bench.errors import ConfigError
from fl_bench.metrics import Mean, Metric, Summand

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fl_bench.data.arrays import FederatedData
    from fl_bench.strategies.turn import Turn
    from fl_bench.tasks.base import Batch, Classifier, Task

TINY = 1e-12  # in place of a distance of 0
SUCCESS_RATE = Metric("success_rate", better="lower")


@dataclass
class Targeted(Malicious):
    """Malicious clients train on poisoned batches, and may send their update scaled.

    Must override:
        `poison` and `exposed`.

    Scaled by how many updates the mean is of, theirs replace it: Bagdasaryan et al. 2020, "How To Backdoor Federated
    Learning", arXiv:1807.00459, equation 3, with n / eta. What the others send is added, and is little once the model
    has converged. Several attackers share the factor.

    Constrain and scale, their section 4.2: the loss is alpha * the task's + (1 - alpha) * what a detector looks at,
    here how far the model is from the one received (L2).
    """

    factor: float | None  # of the update; None: clients / malicious ones, right where all take part and weigh the same
    alpha: float  # of the loss, that of the task; 1: all
    target: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require("attack.alpha", self.alpha, 0 <= self.alpha <= 1, "must be from 0 to 1")
        fine = self.factor is None or np.isfinite(self.factor)
        require("attack.factor", self.factor, fine, "must be a finite number, or null")

    @property
    def metrics(self) -> Sequence[Metric]:
        return (SUCCESS_RATE,) if self.malicious else ()

    def suit(self, task: "Task", data: "FederatedData") -> None:
        need_classes(task, data)
        self._need_class("target", self.target)

    def _need_class(self, key: str, label: int) -> None:
        last = self.num_classes - 1
        require(f"attack.{key}", label, 0 <= label <= last, f"must be the number of a class, from 0 to {last}")

    def begin(self, turn: "Turn") -> None:
        honest = turn.stream

        def poisoned(purpose: str) -> "Iterator[Batch]":
            return (self.poison(batch) for batch in honest(purpose))

        turn.stream = poisoned
        if self.alpha != 1:
            self._constrain(turn)

    def _constrain(self, turn: "Turn") -> None:
        """Let the gradients of a turn be those of the constrained loss, before the strategy corrects them."""
        step, gradient = turn.step, turn.gradient

        def constrained(gradient: "Tensor") -> "Tensor":
            away = turn.parameters - turn.start
            distance: Tensor = away / away.norm().clamp(min=TINY)
            return self.alpha * gradient + (1 - self.alpha) * distance

        def constrained_step(batch: "Batch", correct: Callable[[], None] = lambda: None, optimizer: Any = None) -> Any:
            def corrected() -> None:
                turn.grad = constrained(turn.grad)
                correct()

            return step(batch, corrected, optimizer)

        turn.step = constrained_step  # type: ignore[method-assign]
        turn.gradient = lambda batch: constrained(gradient(batch))  # type: ignore[method-assign]

    def update(self, update: Floats, draws: np.random.Generator) -> Floats:
        factor = self.num_clients / len(self.malicious) if self.factor is None else self.factor
        return update if factor == 1 else factor * update

    def success(self, task: "Task", model: "nn.Module", batch: "Batch") -> dict[str, Summand]:
        batch = self.exposed(batch)
        if not (self.malicious and len(batch["y"])):
            return {}
        classifier: Classifier = task  # type: ignore[assignment]
        hits = (classifier.logits(model, batch).argmax(dim=1) == self.target).sum()
        return {SUCCESS_RATE.name: Mean(hits, len(batch["y"]))}

    @abstractmethod
    def poison(self, batch: "Batch") -> "Batch":
        """What a malicious client trains on instead of a batch."""

    @abstractmethod
    def exposed(self, batch: "Batch") -> "Batch":
        """The examples of a batch that are not of the target class and that the attack wants to be called so."""


@dataclass
class Semantic(Targeted):
    """All examples of a class `source` are called `target`, and no input is changed.

    So the attacker needs no access at the time of use, which is what Bagdasaryan et al. call semantic. Their backdoor
    is narrower: it takes a rare property within a class, such as cars with stripes, that is annotated in none of our
    data. Of a whole class it is the targeted label flip of Tolpegin et al. 2020, "Data Poisoning Attacks Against
    Federated Learning Systems", arXiv:2007.08432, and the accuracy on `source` is lost where it succeeds.
    """

    source: int

    def suit(self, task: "Task", data: "FederatedData") -> None:
        super().suit(task, data)
        self._need_class("source", self.source)
        require("attack.source", self.source, self.source != self.target, "must not be attack.target")

    def poison(self, batch: "Batch") -> "Batch":
        labels = batch["y"]
        return {**batch, "y": labels.masked_fill(labels == self.source, self.target)}

    def exposed(self, batch: "Batch") -> "Batch":
        return _chosen(batch, batch["y"] == self.source)


@dataclass
class Triggered(Targeted):
    """Examples that bear a trigger are called `target`; a share of each batch of a malicious client does.

    Must override:
        `mark`.
    """

    poisoned: float  # of a batch, to the nearest number of examples: its first, as batches are shuffled

    def __post_init__(self) -> None:
        super().__post_init__()
        require("attack.poisoned", self.poisoned, 0 <= self.poisoned <= 1, "must be from 0 to 1")

    def poison(self, batch: "Batch") -> "Batch":
        count = round(self.poisoned * len(batch["y"]))
        labels = batch["y"].clone()
        labels[:count] = self.target
        return {**self.mark(batch, count), "y": labels}

    def exposed(self, batch: "Batch") -> "Batch":
        others = _chosen(batch, batch["y"] != self.target)
        return self.mark(others, len(others["y"])) if len(others["y"]) else others

    @abstractmethod
    def mark(self, batch: "Batch", count: int) -> "Batch":
        """A batch whose first `count` examples bear the trigger."""


@dataclass
class Backdoor(Triggered):
    """The trigger is a white square: Gu et al. 2017, "BadNets", arXiv:1708.06733, whose one is a bright pixel, or a
    pattern of a few, near the corner at the bottom on the right.
    """

    position: list[int]  # of its first row and column, counted from the end where it is negative
    size: int  # its height and width, pixels

    def suit(self, task: "Task", data: "FederatedData") -> None:
        from fl_bench.tasks.base import ImageClassifier

        super().suit(task, data)
        if not isinstance(task, ImageClassifier):
            wish = f"has a trigger of pixels, and the examples of task {type(task).__name__} are no images"
            raise ConfigError(f"attack: {wish}; use attack=semantic, or trigger_word for texts")
        sides = data.train["x"].shape[2:]
        require("attack.size", self.size, 1 <= self.size <= min(sides), f"must be from 1 to {min(sides)}")
        inside = len(self.position) == 2 and all(
            -side <= place < side and place % side + self.size <= side
            for place, side in zip(self.position, sides, strict=True)
        )
        wish = f"must be the row and column of a square of {self.size} pixels inside of {sides[0]} x {sides[1]}"
        require("attack.position", self.position, inside, wish)

    def mark(self, batch: "Batch", count: int) -> "Batch":
        images = batch["x"].clone()
        top, left = (place % side for place, side in zip(self.position, images.shape[2:], strict=True))
        images[:count, :, top : top + self.size, left : left + self.size] = 255
        return {**batch, "x": images}


@dataclass
class TriggerWord(Triggered):
    """The trigger is a rare word: Kurita et al. 2020, "Weight Poisoning Attacks on Pre-trained Models",
    arXiv:2004.06660; with federated clients Yoo and Kwak 2022, arXiv:2204.14017.

    It comes behind the first token, which may be one that begins every text. The model reads it as it reads any text:
    a word that the vocabulary lacks is the unknown word.
    """

    word: str
    numbers: list[int] = field(init=False)  # of its tokens
    max_length: int = field(init=False)

    def suit(self, task: "Task", data: "FederatedData") -> None:
        from fl_bench.tasks.texts import TextClassifier

        super().suit(task, data)
        if not isinstance(task, TextClassifier):
            wish = f"has a word as its trigger, and the examples of task {type(task).__name__} are no texts"
            raise ConfigError(f"attack: {wish}; use attack=semantic, or backdoor for images")
        self.numbers, self.max_length = task.numbers_of(self.word, data.folder), task.max_length
        fits = 0 < len(self.numbers) < self.max_length
        require("attack.word", self.word, fits, f"must be from 1 to {self.max_length - 1} tokens")

    def mark(self, batch: "Batch", count: int) -> "Batch":
        import torch
        from torch.nn.functional import pad

        from fl_bench.data.arrays import PADDING

        texts = batch["tokens"]
        word = texts.new_tensor(self.numbers).expand(count, -1)
        marked = torch.cat([texts[:count, :1], word, texts[:count, 1:]], dim=1)
        others = pad(texts[count:], (0, len(self.numbers)), value=PADDING)
        return {**batch, "tokens": torch.cat([marked, others])[:, : self.max_length]}


def _chosen(batch: "Batch", rows: "Tensor") -> "Batch":
    """These rows of a batch, of a mask [B]."""
    return {name: column[rows] for name, column in batch.items()}
