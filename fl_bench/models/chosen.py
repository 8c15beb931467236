"""The model that the group `model` names, made for the examples of a task."""

import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from fl_bench.build import call, find_target
from fl_bench.errors import ConfigError
from fl_bench.models.norms import LAYERS, replace_norms

# What a task says of its examples, by the argument of the model's function, and what such examples are.
EXAMPLES = {
    "shape": "images, series or rows of tables", "vocabulary": "texts", "folder": "texts", "alphabet": "characters",
}  # fmt: skip
NOT_ARGUMENTS = ("_target_", "norm", "lr_of", "init", "init_skip")  # for a task's yaml, or of what is made here


def model_of(node: DictConfig, num_classes: int, **example: Any) -> nn.Module:
    """The model that `node` names, for examples such as these, with other norms where it says so.

    `example` is `shape`, of one without the batch; or `vocabulary`, how many words a text may have; or `folder`, where
    what `text_model_into` has made of a pretrained model lies; or `alphabet`, how many characters there are.

    Raises:
        ConfigError: where a key is wrong, or the model cannot take such examples.
    """
    node = OmegaConf.create({"model": node}).model  # so that errors name model.norm, not task.model.norm
    target, norm = find_target(node), node.get("norm")
    takes = inspect.signature(target).parameters
    if EXAMPLES.keys() & takes.keys() and (lacking := example.keys() - takes.keys()):
        raise ConfigError(f"model: {target.__name__} takes no {EXAMPLES[min(lacking)]}; see docs/models.md")
    ours = "norm" not in takes  # otherwise the function sees to it
    skip = NOT_ARGUMENTS if ours else [name for name in NOT_ARGUMENTS if name != "norm"]
    model: nn.Module = call(target, node, skip, num_classes=num_classes, **example)
    if ours and norm is not None:
        if norm not in LAYERS:
            raise ConfigError(f"model.norm={norm}: must be one of {', '.join(LAYERS)}, or null")
        if not replace_norms(model, norm):
            raise ConfigError(f"model.norm={norm}: {type(model).__name__} has no BatchNorm in whose place it could be")
    return model
