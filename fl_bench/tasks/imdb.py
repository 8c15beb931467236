"""Sentiment of reviews by ALBERT (Lan et al. 2020, arXiv:1909.11942), or any other text classifier of transformers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fl_bench.data import reviews
from fl_bench.data.arrays import PADDING, FederatedData, Ragged, writing_into
from fl_bench.data.fetch import WAYS_OUT, use_cache_when_offline
from fl_bench.errors import ConfigError, StorageError, disk_trouble
from fl_bench.models.pretrained import PRETRAINED, from_pretrained, pretrained_model, transformers_quietly
from fl_bench.tasks.base import Batch, Classifier

HUB = "albert/albert-base-v2"


class Imdb(Classifier):
    """Tokens as column "tokens" (ragged), labels as column "y"."""

    def __init__(self, path: str | None, max_length: int) -> None:
        self.path = path
        self.max_length = max_length

    def model(self, data: FederatedData) -> nn.Module:
        return pretrained_model(transformers_quietly().AutoModelForSequenceClassification, data.folder / PRETRAINED)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        config: Any = model.config
        inside = batch["tokens"] != PADDING
        tokens = batch["tokens"].where(inside, config.pad_token_id)  # by which some models find where a text ends
        scores: Tensor = model(input_ids=tokens, attention_mask=inside.long()).logits
        return scores

    def load_embedded(self, folder: Path) -> FederatedData:
        """Generated reviews, 3,000 to train and 600 to test."""
        rng = np.random.default_rng(0)
        train, test = reviews.generated(3000, rng), reviews.generated(600, rng)
        return self._tokenized(folder, train, test, self.path)

    def load_reviews(self, folder: Path) -> FederatedData:
        """Real rated sentences; of each source a random tenth is the test set."""
        rated = reviews.rated()
        is_test = np.random.default_rng(0).random(len(rated.texts)) < 0.1
        train, test = (
            [[column[i] for i in np.flatnonzero(is_test == wanted)] for column in rated] for wanted in (False, True)
        )
        data = self._tokenized(folder, train[:2], test[:2], self.path)
        return FederatedData({**data.train, "source": np.array(train[2])}, data.test, data.classes)

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
        return self._tokenized(folder, splits[0], splits[1], self.path or HUB)

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures

        tokenizer = from_pretrained(transformers_quietly().AutoTokenizer, data.folder / PRETRAINED)
        rows = np.linspace(0, len(data.test["y"]) - 1, 16).astype(int)
        texts = [tokenizer.decode(data.test["tokens"][np.array([row])][0], skip_special_tokens=True) for row in rows]
        pictures.sentences(folder, data, rows, texts, self.predict(model, data))

    def _tokenized(
        self, folder: Path, train: Sequence[Sequence[Any]], test: Sequence[Sequence[Any]], path: str | None
    ) -> FederatedData:
        """Texts and labels as columns; the tokenizer and the model stay beside them in `folder`."""
        if path is not None:
            use_cache_when_offline()
        transformers = transformers_quietly()
        if path is None:
            with writing_into(folder):
                _make_tiny(folder / PRETRAINED, train[0])
        tokenizer, limits = from_pretrained(transformers.AutoTokenizer, path or folder / PRETRAINED), {}
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if tokenizer.pad_token_id is None:
            raise ConfigError(f"model.path={path}: its tokenizer has neither a pad_token nor an eos_token; {WAYS_OUT}")
        if path is not None:  # once, here: the workers never ask a hub, and share one new classification head
            kind = transformers.AutoModelForSequenceClassification
            model: Any = pretrained_model(kind, path, new_head=True, num_labels=len(reviews.LABELS))
            model.config.pad_token_id = tokenizer.pad_token_id
            limits = model.config.to_dict()
            with writing_into(folder):
                model.save_pretrained(folder / PRETRAINED)
                tokenizer.save_pretrained(folder / PRETRAINED)

        def columns(texts: Sequence[str], labels: Sequence[int]) -> dict[str, Any]:
            tokens = Ragged.of(tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"])
            if np.isin(tokens.flat, tokenizer.all_special_ids).all():
                raise ConfigError(f"model.path={path}: its tokenizer knows no word of the data; {WAYS_OUT}")
            if max(tokens.flat.max(), tokenizer.pad_token_id) >= limits.get("vocab_size", np.inf):
                raise ConfigError(f"model.path={path}: its tokenizer knows words that its model does not; {WAYS_OUT}")
            if np.diff(tokens.offsets).max() > (most := limits.get("max_position_embeddings", np.inf)):
                raise ConfigError(f"task.max_length={self.max_length}: must be at most {most} with model.path={path}")
            return {"tokens": tokens, "y": np.array(labels, dtype=np.int64)}

        return FederatedData(columns(*train), columns(*test), reviews.LABELS)


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
