"""Models and tokenizers of transformers, from a folder or from the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fl_bench.data.fetch import WAYS_OUT, use_cache_when_offline
from fl_bench.errors import ConfigError, disk_trouble
from fl_bench.models.by_name import tried
from fl_bench.models.images import image

PRETRAINED = "pretrained"  # the folder or link beside the data where every worker finds a pretrained model


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
            reason = "the weights have other shapes than config.json says"
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
    if lacking:
        raise ConfigError(f"model.path={path}: has no weights for {lacking[0]} of {type(model).__name__}; {WAYS_OUT}")
    return model  # type: ignore[no-any-return]


class Scores(nn.Module):
    """A classifier of transformers, of which only the scores are wanted."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """From [B, channels, height, width] to [B, classes]."""
        scores: Tensor = self.body(pixel_values=images).logits
        return scores


def image_classifier(shape: tuple[int, ...], num_classes: int, path: str) -> nn.Module:
    """A classifier of images by transformers with the weights in `path`, a folder or an id of the hub, and a new head.

    As many parameters as it has there, but for the head.
    """
    image(shape, 1, path)
    use_cache_when_offline()
    kind = transformers_quietly().AutoModelForImageClassification
    options = {"num_labels": num_classes, "ignore_mismatched_sizes": True}
    return tried(Scores(pretrained_model(kind, path, new_head=True, **options)), shape, path)
