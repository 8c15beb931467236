"""Models of torchvision as options of the group `model`: model=resnet50 for model=torchvision model.name=resnet50."""

import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fl_bench.config.compose import options
from fl_bench.config.words import values

FUNCTION = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


def add_named(words: Sequence[str], own: Path | None) -> None:
    """Let Hydra know an option for each word after `model=` that is no option of ours and that torchvision knows."""
    ours = options("model", own)
    for override in OverridesParser.create().parse_overrides(list(words)):
        if override.key_or_group != "model" or override.is_delete():
            continue
        for name in values(override, own) if override.is_discrete_sweep() else [str(override.value())]:
            if name not in ours and name in known():
                node = OmegaConf.load(ours["torchvision"])
                node.name = name
                ConfigStore.instance().store(group="model", name=name, node=node)


@functools.cache
def known() -> frozenset[str]:
    """torchvision's classifiers, without importing it: that would take seconds, and before the run's process forks."""
    spec = importlib.util.find_spec("torchvision")
    folders = [Path(folder) / "models" for folder in (spec and spec.submodule_search_locations) or ()]
    files = [file for folder in folders for file in folder.glob("*.py")]
    return frozenset(name for file in files for name in FUNCTION.findall(file.read_text(encoding="utf-8")))
