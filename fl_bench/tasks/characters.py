"""The next character of a text, by any model of characters of the group `model`."""

from pathlib import Path
from typing import Literal

import numpy as np
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional

from fl_bench.build import positive
from fl_bench.data import hugging, leaf
from fl_bench.data.arrays import FederatedData
from fl_bench.data.characters import Sampling, joined, next_characters
from fl_bench.data.shakespeare import said
from fl_bench.data.speakers import speeches
from fl_bench.models.chosen import model_of
from fl_bench.tasks.base import Batch, Classifier, Metrics

LARGEST_ALPHABET = 256  # numbers of a byte


class Characters(hugging.FromDataSets, Classifier):
    """Windows of a text as column "text", uint8 [N, length + 1], and the last of each as label, column "y".

    The loss in training is of that character (`predict=last`), or the mean over all characters of the window but the
    first (`all`). What is measured, in training too, is of the last one: LEAF's accuracy.
    """

    reads = ("text",)
    not_loaded = ("model", "predict")

    def __init__(
        self,
        model: DictConfig,
        alphabet: str,
        length: int,
        stride: int,
        test_stride: int,
        predict: Literal["last", "all"],
    ) -> None:
        super().__init__()
        positive(length=length, stride=stride, test_stride=test_stride)
        if not 2 <= len(set(alphabet)) == len(alphabet) <= LARGEST_ALPHABET:
            raise ValueError(f"alphabet={alphabet!r}: must have from 2 to {LARGEST_ALPHABET} characters, each once")
        self.chosen, self.predict_of = model, predict
        self.how = Sampling(alphabet, length, stride, test_stride)

    def model(self, data: FederatedData) -> nn.Module:
        return model_of(self.chosen, len(data.classes), alphabet=len(data.classes))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._scores(model, batch)[:, -1]

    def objective(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        scores = self._scores(model, batch)
        last = functional.cross_entropy(scores[:, -1], batch["y"])
        measured = self._measured(scores[:, -1], batch["y"], last)
        if self.predict_of == "last":
            return last, measured
        others = functional.cross_entropy(scores[:, :-1].flatten(0, 1), batch["text"][:, 1:-1].long().flatten())
        return (others * (scores.shape[1] - 1) + last) / scores.shape[1], measured

    def _scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """Those of the character that follows each one of the window, [B, length, classes]."""
        scores: Tensor = model(batch["text"][:, :-1].long())
        return scores

    def load_embedded(self, folder: Path) -> FederatedData:
        """Generated speech of ten speakers."""
        return next_characters(speeches(), self.how)

    def load_shakespeare(self, folder: Path, min_characters: int) -> FederatedData:
        """The roles of Shakespeare's plays."""
        return next_characters({name: " ".join(told) for name, told in said(min_characters).items()}, self.how)

    def load_leaf(self, folder: Path, root: str) -> FederatedData:
        """The samples in the files of LEAF."""
        return leaf.leaf_characters(folder, root, self.how)

    def of_splits(self, folder: Path, splits: hugging.Splits, wanted: hugging.Wanted) -> FederatedData:
        return next_characters(joined(*hugging.said_by(splits, wanted.text, wanted.client)), self.how)

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures  # matplotlib: not in the workers

        rows = np.linspace(0, data.num_tests - 1, min(16, data.num_tests)).astype(int)
        texts = ["".join(self.how.alphabet[number] for number in row) for row in data.test["text"][rows][:, :-1]]
        pictures.sentences(folder, data, rows, texts, self.predict(model, data))
