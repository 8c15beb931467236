import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import Launch, compose
from tokenizers import Tokenizer, models, pre_tokenizers

from fl_bench.data.reviews import LABELS
from fl_bench.data.texts import Texts
from fl_bench.errors import ConfigError
from fl_bench.tasks.imdb import Imdb, _make_tiny

TEXTS = ["a good film", "a bad film , not good", "the plot was fine", "a good plot"] * 10
SPLIT = Texts([*TEXTS, *TEXTS[:4]], np.array([1, 0, 0, 1] * 11), LABELS, np.arange(44) >= 40)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    _make_tiny(folder, TEXTS)
    return folder


def words(specials: Mapping[str, str]) -> Any:
    """A tokenizer of the words of TEXTS, whose special tokens come last."""
    known = ["?", *sorted(set(" ".join(TEXTS).split())), *dict.fromkeys(specials.values())]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", **specials)


def gpt2(folder: Path, **specials: str) -> None:
    """A tiny GPT-2, whose classes are read from the last token that is no padding."""
    torch.manual_seed(0)
    tokenizer = words(specials)
    sizes: Any = {"vocab_size": len(tokenizer), "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, initializer_range=0.5)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bert(folder: Path, kind: str = "Bert") -> None:
    """A tiny BERT, or RoBERTa, which finds the places of its tokens by its number for padding."""
    torch.manual_seed(0)
    tokenizer = words({"pad_token": "<pad>"})
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5, **sizes,
    )  # fmt: skip
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


MODELS: dict[str, Callable[[Path], None]] = {
    "albert": lambda folder: _make_tiny(folder, TEXTS),
    "bert": bert,
    "roberta": lambda folder: bert(folder, "Roberta"),
    "gpt2": lambda folder: gpt2(folder, eos_token="<end>"),  # as the real one: no token to pad with
    "gpt2 that pads": lambda folder: gpt2(folder, eos_token="<end>", pad_token="<pad>"),
}


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_neither_scores_nor_accuracy(name: str, tmp_path: Path) -> None:
    MODELS[name](pretrained := tmp_path / "model")
    task = Imdb(None, 16)
    data = task._tokenized(tmp_path, SPLIT, str(pretrained))
    data.save(tmp_path)
    opened = type(data).open(tmp_path)
    model = task.model(opened).eval()
    together = torch.from_numpy(opened.test["tokens"][np.arange(4)])
    assert (together == -1).any()
    scores = task.logits(model, {"tokens": together})
    for row in range(4):
        alone = torch.from_numpy(opened.test["tokens"][np.array([row])])
        assert torch.allclose(task.logits(model, {"tokens": alone})[0], scores[row], atol=1e-6)
    labels = scores.argmax(dim=1)
    labels[0] = 1 - labels[0]  # three right, one wrong, whatever the model thinks
    _, metrics = task.objective(model, {"tokens": together, "y": labels})
    assert metrics["accuracy"].value == 0.75


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path: Path) -> None:
    gpt2(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"model: its tokenizer has neither a pad_token nor an eos_token"):
        Imdb(None, 16)._tokenized(tmp_path, SPLIT, str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ([], 1e-3),
        (["data=reviews"], 1e-3),
        (["data=full"], 5e-5),  # albert-base-v2
        (["model.path=albert/albert-base-v2"], 5e-5),
        (["model.path=./my.model/full"], 5e-5),
        (["data=full", "model.path=/models/roberta"], 5e-5),
        (["model.path=albert/albert-base-v2", "local.lr=0.01"], 0.01),
        (["local.lr=0.01"], 0.01),
    ],
)
def test_pretrained_weights_have_the_learning_rate_of_fine_tuning(given: list[str], rate: float) -> None:
    assert compose("task=imdb", *given).local.lr == rate


def write_parquet(root: Path) -> None:
    root.mkdir(exist_ok=True)
    for split, count in (("train", 40), ("test", 8)):
        table = pd.DataFrame({"text": TEXTS[:count], "label": ([1, 0, 0, 1] * 10)[:count]})
        table.to_parquet(root / f"{split}-00000-of-00001.parquet")


def test_the_full_data_is_read_from_parquet_and_a_model_folder(
    launch: Launch, pretrained: Path, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "imdb")
    words = ("task=imdb", "data=full", f"data.root={tmp_path / 'imdb'}", f"model.path={pretrained}", "num_clients=2")
    folder = launch(*words, "num_rounds=1", "figures=true")
    assert (folder / "figures" / "sentences.png").exists()
    assert json.loads((folder / "run.json").read_text())["config"]["local"]["lr"] == 5e-5


@pytest.mark.parametrize("words", [["data=full", "data.root=/nowhere"], ["model.path=/nowhere"]])
def test_what_cannot_be_reached_names_the_ways_out(
    launch: Launch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    launch("task=imdb", *words, exit_code=2)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(way in line for way in ("data.root=", "model.path=", "data=embedded"))


def test_the_generated_reviews_are_the_default(tmp_path: Path) -> None:
    assert compose("task=imdb").task.path is None
    data = Imdb(None, 256).load_embedded(tmp_path)
    assert (data.num_samples, len(data.test["y"]), data.classes) == (3000, 600, ("negative", "positive"))
    assert max(data.train["tokens"].flat) < 4000
