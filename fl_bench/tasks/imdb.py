"""Sentiment of reviews by ALBERT (Lan et al. 2020, arXiv:1909.11942), or any other text classifier of transformers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fl_bench.data import reviews
from fl_bench.data.arrays import FederatedData, writing_into
from fl_bench.data.fetch import WAYS_OUT, use_cache_when_offline
from fl_bench.data.texts import Texts
from fl_bench.errors import ConfigError, StorageError, disk_trouble
from fl_bench.models.pretrained import (
    PRETRAINED,
    decoded,
    from_pretrained,
    pretrained_model,
    text_model_into,
    text_scores,
    tokens_of,
    transformers_quietly,
)  # fmt: skip
from fl_bench.tasks.base import Batch
from fl_bench.tasks.texts import TextClassifier

HUB = "albert/albert-base-v2"


class Imdb(TextClassifier):
    def __init__(
        self,
        path: str | None,
        max_length: int,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(label_smoothing, class_weights)
        self.path = path
        self.max_length = max_length

    def model(self, data: FederatedData) -> nn.Module:
        self.check_classes(data)
        return pretrained_model(transformers_quietly().AutoModelForSequenceClassification, data.folder / PRETRAINED)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return text_scores(model, batch["tokens"])

    def load_embedded(self, folder: Path) -> FederatedData:
        """Generated reviews, 3,000 to train and 600 to test."""
        return self._tokenized(folder, reviews.generated_split(), self.path)

    def load_reviews(self, folder: Path) -> FederatedData:
        """Real rated sentences; of each source a random tenth is the test set."""
        return self._tokenized(folder, reviews.rated_split()._replace(sources=()), self.path)

    def load_full(self, folder: Path, root: str | None, dataset: str | None) -> FederatedData:
        """IMDB's 25,000 + 25,000 reviews, or any data set of its form, with `model.path` or albert-base-v2."""
        name = dataset or "stanfordnlp/imdb"
        if root is not None and not Path(root).is_dir():
            raise ConfigError(f"data.root={root}: is not a folder; {WAYS_OUT}")
        if root is None and "/" not in name:  # datasets also has formats by name, one of them pickles in this folder
            raise ConfigError(f"data.dataset={name}: must be owner/name, a data set on the hub; or {WAYS_OUT}")
        use_cache_when_offline()
        import datasets  # from version 4 on it runs no code that comes with the data

        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong, we say ourselves
        try:
            files = {s: sorted(map(str, Path(root or "").rglob(f"*{s}*.parquet"))) for s in ("train", "test") if root}
            if files and all(files.values()):
                loaded = datasets.load_dataset("parquet", data_files=files)
            else:
                loaded = datasets.load_dataset(str(Path(root).resolve()) if root else name)
            splits = [(list(loaded[split]["text"]), list(loaded[split]["label"])) for split in ("train", "test")]
            for texts, labels in splits:
                if not texts or not all(isinstance(text, str) for text in texts) or not set(labels) <= {0, 1}:
                    raise ValueError("not texts in column text and 0 or 1 in column label")
        except Exception as error:  # at files that are not what they should be, datasets raises a dozen kinds
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            if trouble := disk_trouble(cause):
                raise StorageError(trouble) from error
            where = f"data.root={root}: holds no readable {name}" if root else f"data=full: cannot download {name}"
            reason = str(cause).strip().split("\n")[0]
            raise ConfigError(f"{where} ({reason}); {WAYS_OUT}") from error
        (train, y), (test, y_test) = splits
        is_test = np.arange(len(y) + len(y_test)) >= len(y)
        given = Texts(train + test, np.array(y + y_test), reviews.LABELS, is_test)
        return self._tokenized(folder, given, self.path or HUB)

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures

        rows = np.linspace(0, len(data.test["y"]) - 1, 16).astype(int)
        texts = decoded((data.test["tokens"][np.array([row])][0] for row in rows), data.folder / PRETRAINED)
        pictures.sentences(folder, data, rows, texts, self.predict(model, data))

    def _tokenized(self, folder: Path, given: Texts, path: str | None) -> FederatedData:
        """Texts and labels as columns; the tokenizer and the model stay beside them in `folder`."""
        limits: dict[str, Any] = {}
        if path is None:
            with writing_into(folder):
                _make_tiny(folder / PRETRAINED, given.train)
            tokenizer = from_pretrained(transformers_quietly().AutoTokenizer, folder / PRETRAINED)
        else:
            tokenizer, limits = text_model_into(folder / PRETRAINED, len(given.classes), path)
        return given.federated(lambda texts: tokens_of(texts, tokenizer, limits, path, self.max_length))


def _make_tiny(folder: Path, texts: Iterable[str]) -> None:
    """A tokenizer of the words of these texts and a small ALBERT with random weights, as a folder in the usual form."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    transformers = transformers_quietly()
    specials = ["<pad>", "<unk>", "[CLS]", "[SEP]"]
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=4000, min_frequency=2, special_tokens=specials)
    )
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, words.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    config = transformers.AlbertConfig(
        vocab_size=words.get_vocab_size(), embedding_size=64, hidden_size=128, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=256, max_position_embeddings=512, num_labels=2,
        classifier_dropout_prob=0.0, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    transformers.AlbertForSequenceClassification(config).save_pretrained(folder)
