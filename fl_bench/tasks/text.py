"""Texts and the class to be told from them, by any model of texts of the group `model`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fl_bench.build import call, find_target, positive
from fl_bench.data import hugging, reviews
from fl_bench.data.arrays import FederatedData, writing_into
from fl_bench.data.facts import Facts
from fl_bench.data.files import options_of, texts_of_files
from fl_bench.data.texts import Texts, numbered, vocabulary_of
from fl_bench.errors import ConfigError
from fl_bench.models.chosen import NOT_ARGUMENTS, model_of
from fl_bench.models.pretrained import (
    PRETRAINED,
    classifier,
    decoded,
    text_model_into,
    tokens_of,
)  # fmt: skip
from fl_bench.tasks.base import Batch
from fl_bench.tasks.texts import VOCABULARY, TextClassifier


class Text(hugging.FromDataSets, TextClassifier):
    """Tokens as column "tokens" (ragged), labels as column "y"; a token is a word, or one of model=hf's tokenizer."""

    fits_rows = True
    reads = ("text",)

    def __init__(
        self,
        model: DictConfig,
        max_vocabulary: int,
        max_length: int,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(label_smoothing, class_weights)
        positive(max_vocabulary=max_vocabulary, max_length=max_length)
        self.chosen, self.max_vocabulary, self.max_length = model, max_vocabulary, max_length

    def model(self, data: FederatedData) -> nn.Module:
        self.check_classes(data)
        example: dict[str, Any] = {"folder": data.folder / PRETRAINED}
        if (words := data.folder / VOCABULARY).exists():
            example = {"vocabulary": len(json.loads(words.read_text()))}
        return model_of(self.chosen, len(data.classes), **example)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        scores: Tensor = model(batch["tokens"])
        return scores

    def load_embedded(self, folder: Path) -> FederatedData:
        """Generated reviews, 3,000 to train and 600 to test."""
        return self.numbered(folder, reviews.generated_split())

    def load_reviews(self, folder: Path) -> FederatedData:
        """Real rated sentences of four sources; a random tenth is the test set."""
        return self.numbered(folder, reviews.rated_split())

    def load_table(
        self,
        folder: Path,
        format: Literal["csv", "parquet"],
        root: str,
        text: str | None,
        label: str,
        client: str | None,
        features: Sequence[str] | None,
        separator: str | None = None,
        encoding: str | None = None,
        facts: str | None = None,
    ) -> FederatedData:
        if text is None:
            raise ConfigError("data.text=null: must name the column with the texts")
        if features is not None:
            raise ConfigError(f"data.features={list(features)}: task=text reads the column data.text only")
        stated, options = Facts.read(facts) if facts else None, options_of(format, separator, encoding)
        return self.numbered(folder, texts_of_files(format, root, text, label, client, stated, **options), stated)

    def of_splits(self, folder: Path, splits: hugging.Splits, wanted: hugging.Wanted) -> FederatedData:
        return self.numbered(folder, hugging.texts_of(splits, wanted.text, wanted.label, wanted.client))

    def numbered(self, folder: Path, given: Texts, facts: Facts | None = None) -> FederatedData:
        """Texts and labels as columns; what the words' numbers mean stays beside them in `folder`, as `facts` say."""
        node = OmegaConf.create({"model": self.chosen}).model  # so that errors name model.path
        if find_target(node) is classifier:
            tokenizer, limits = call(
                text_model_into, node, NOT_ARGUMENTS, folder=folder / PRETRAINED, num_classes=len(given.classes)
            )
            Facts(classes=list(given.classes)).write(folder)
            return given.federated(lambda texts: tokens_of(texts, tokenizer, limits, node.path, self.max_length))
        if facts is not None and facts.vocabulary is None:
            raise ConfigError("data.facts: states no vocabulary, which this model needs")
        words = (facts and facts.vocabulary) or vocabulary_of(given.train, self.max_vocabulary)
        Facts(classes=list(given.classes), vocabulary=words).write(folder)
        with writing_into(folder):
            (folder / VOCABULARY).write_text(json.dumps(words))
        return given.federated(lambda texts: numbered(texts, words, self.max_length))

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures  # matplotlib: not in the workers

        rows = np.linspace(0, len(data.test["y"]) - 1, min(16, len(data.test["y"]))).astype(int)
        tokens = [data.test["tokens"][np.array([row])][0] for row in rows]
        if (data.folder / VOCABULARY).exists():
            words = json.loads((data.folder / VOCABULARY).read_text())
            texts = [" ".join(words[number] for number in numbers) for numbers in tokens]
        else:
            texts = decoded(tokens, data.folder / PRETRAINED)
        predicted = self.predict(model, data)
        pictures.sentences(folder, data, rows, texts, predicted)
        if len(data.classes) <= 20:  # more do not fit into a picture
            pictures.confusion(folder, data, predicted)
