"""Models and tokenizers of transformers, from a folder or from the hub."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fl_bench.data.arrays import PADDING, Ragged, writing_into
from fl_bench.data.fetch import WAYS_OUT, use_cache_when_offline
from fl_bench.errors import ConfigError, disk_trouble
from fl_bench.models.by_name import tried
from fl_bench.models.images import image

PRETRAINED = "pretrained"  # the folder or link beside the data where every worker finds a pretrained model
OTHER_SHAPES = "have other shapes than config.json says"


def transformers_quietly() -> Any:
    """The package transformers: seconds to import, so only the tasks that use it do, when they do."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@contextmanager
def loading(path: str | Path) -> Iterator[None]:
    """Says in one line why nothing can be made of the pretrained model in `path`, a folder or an id of the hub.

    Raises:
        ConfigError: where that is so.
    """
    try:
        yield
    except Exception as error:  # at files that are not what they should be, transformers raises a dozen kinds
        if disk_trouble(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "ignore_mismatched_sizes" in reason:
            reason = f"the weights {OTHER_SHAPES}"
        if not Path(path).exists():
            is_path = str(path).startswith(("/", ".", "~"))
            reason = "there is no such folder" if is_path else f"it is no folder, and of the hub: {reason}"
        raise ConfigError(f"model.path={path}: cannot be loaded ({reason}); {WAYS_OUT}") from error


def from_pretrained(kind: Any, path: str | Path, **options: Any) -> Any:
    """What `kind`, a class of transformers, makes of the files in `path`; code in there is neither run nor asked about.

    Raises:
        ConfigError: where it can make nothing of them.
    """
    with loading(path):
        return kind.from_pretrained(path, trust_remote_code=False, **options)


def pretrained_model(kind: Any, path: str | Path, new_head: bool = False, **options: Any) -> nn.Module:
    """A model of `kind` with the weights in `path`, safetensors only; `new_head`: what is behind the body may be new.

    Raises:
        ConfigError: where they cannot be read, or are those of another model.
    """
    model: Any
    model, found = from_pretrained(kind, path, use_safetensors=True, output_loading_info=True, **options)
    body = f"{model.base_model_prefix}." if new_head else ""
    lacking = sorted(
        name for name in found["missing_keys"] if name.startswith(body) and not (new_head and "pooler" in name)
    )
    if any(name.startswith(body) for name, *_ in found["mismatched_keys"]):
        raise ConfigError(f"model.path={path}: the weights {OTHER_SHAPES}; {WAYS_OUT}")
    if lacking:
        raise ConfigError(f"model.path={path}: has no weights for {lacking[0]} of {type(model).__name__}; {WAYS_OUT}")
    return model  # type: ignore[no-any-return]


class Scores(nn.Module):
    """A classifier of transformers, of which only the scores are wanted."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body


class ImageScores(Scores):
    def forward(self, images: Tensor) -> Tensor:
        """From [B, channels, height, width] to [B, classes]."""
        scores: Tensor = self.body(pixel_values=images).logits
        return scores


class TextScores(Scores):
    def forward(self, tokens: Tensor) -> Tensor:
        """From [B, length], PADDING behind the ends, to [B, classes]."""
        return text_scores(self.body, tokens)


def text_scores(body: Any, tokens: Tensor) -> Tensor:
    """What a text classifier of transformers says [B, classes] of tokens [B, length], PADDING behind their ends."""
    inside = tokens != PADDING
    padded = tokens.where(inside, body.config.pad_token_id)  # by which some models find where a text ends
    scores: Tensor = body(input_ids=padded, attention_mask=inside.long()).logits
    return scores


def classifier(
    num_classes: int,
    path: str,
    pretrained: bool = True,
    shape: tuple[int, ...] | None = None,
    folder: Path | None = None,
) -> nn.Module:
    """A classifier by transformers as in `path`, a folder or an id of the hub, and a new head; without `pretrained`,
    only its config.json is read, and all weights are new.

    It takes images of `shape`, or texts where `text_model_into` has made it in `folder`. As many parameters as it has
    there, but for the head.
    """
    kinds = transformers_quietly()
    if shape is None:
        assert folder is not None
        return TextScores(pretrained_model(kinds.AutoModelForSequenceClassification, folder))
    image(shape, 1, path)
    use_cache_when_offline()
    body = _with_new_head(kinds.AutoModelForImageClassification, path, num_classes, pretrained)
    return tried(ImageScores(body), shape, path)


def _with_new_head(kind: Any, path: str, num_classes: int, pretrained: bool) -> Any:
    if pretrained:
        options = {"num_labels": num_classes, "ignore_mismatched_sizes": True}
        return pretrained_model(kind, path, new_head=True, **options)
    config = from_pretrained(transformers_quietly().AutoConfig, path, num_labels=num_classes)
    with loading(path):
        return kind.from_config(config, trust_remote_code=False)


def text_model_into(folder: Path, num_classes: int, path: str, pretrained: bool = True) -> tuple[Any, dict[str, Any]]:
    """The tokenizer in `path`, a folder or an id of the hub, and the entries of the model's config.

    The model is written to `folder`, with a new head or, without `pretrained`, new altogether: once, so that the
    workers never ask a hub, and share one head.

    Raises:
        ConfigError: where they cannot be had, or the tokenizer cannot pad.
    """
    use_cache_when_offline()
    kinds = transformers_quietly()
    tokenizer = from_pretrained(kinds.AutoTokenizer, path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"model.path={path}: its tokenizer has neither a pad_token nor an eos_token; {WAYS_OUT}")
    model = _with_new_head(kinds.AutoModelForSequenceClassification, path, num_classes, pretrained)
    model.config.pad_token_id = tokenizer.pad_token_id
    limits: dict[str, Any] = model.config.to_dict()
    with writing_into(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return tokenizer, limits


def decoded(tokens: Iterable[Sequence[int]], folder: Path) -> list[str]:
    """The texts that these tokens are of, by the tokenizer in `folder`."""
    tokenizer = from_pretrained(transformers_quietly().AutoTokenizer, folder)
    return [tokenizer.decode(numbers, skip_special_tokens=True) for numbers in tokens]


def tokens_of(
    texts: Sequence[str], tokenizer: Any, limits: Mapping[str, Any], path: str | None, max_length: int
) -> Ragged:
    """The first `max_length` tokens of each text, as many and such as a model with these entries takes.

    Raises:
        ConfigError: where it does not take them.
    """
    tokens = Ragged.of(tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"])
    if np.isin(tokens.flat, tokenizer.all_special_ids).all():
        raise ConfigError(f"model.path={path}: its tokenizer knows no word of the data; {WAYS_OUT}")
    if max(tokens.flat.max(), tokenizer.pad_token_id) >= limits.get("vocab_size", np.inf):
        raise ConfigError(f"model.path={path}: its tokenizer knows words that its model does not; {WAYS_OUT}")
    if np.diff(tokens.offsets).max() > (most := limits.get("max_position_embeddings", np.inf)):
        raise ConfigError(f"task.max_length={max_length}: must be at most {most} with model.path={path}")
    return tokens
