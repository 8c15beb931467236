"""What a run's folder may have built: its run.json may come from anybody, and names the classes of its parts.

Of what this package ships, each key may name what is defined where the parts of that key are; `build` sees to it that
they have the right base. Anything else must be named by who types the command: with --trust, in a word, or in a yaml
of --config-dir.
"""

import ast
import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from fl_bench.config.schema import PACKAGE
from fl_bench.errors import ConfigError

TARGET = "_target_"
FLOWER = re.compile(r"flwr\.serverapp\.strategy\.[A-Z]\w*")  # its strategies: the classes there have a capital
WHERE = {  # by key: the folders and files of this package in which what it may name is defined
    "engine": ("engines",),
    "task": ("tasks",),
    "model": ("models",),
    "task.model": ("models",),  # where a task's yaml has model: ${model}
    "partition": ("data/partition.py", "data/mixes.py", "data/split.py"),
    "shift": ("data/shift.py",),
    "data_drift": ("data/drift.py",),
    "augment": ("data/augment.py",),
    "attack": ("attacks",),
    "robust": ("robust",),
    "robust.before": ("robust",),
    "privacy": ("privacy",),
    "strategy.server": ("strategies", "vertical"),
    "strategy.server.strategy": ("strategies",),
    "strategy.server.privacy": ("strategies",),
    "strategy.client": ("strategies", "vertical"),
    "strategy.schedule": ("strategies", "network/schedule.py", "network/poisson.py"),
    "compression.up": ("compression",),
    "compression.down": ("compression",),
    "network": ("network",),
    "topology": ("topologies",),
    "tracker": ("observers",),
}


def refuse_strange(folder: Path, config: Mapping[Any, Any], trusted: Collection[str]) -> None:
    """Raise ConfigError where the config of the run in `folder` would build what is not ours, and nobody trusts."""
    for key, name in strange(config):
        if not any(f"{name}.".startswith(f"{module}.") for module in trusted):
            raise ConfigError(
                f"{folder}: its {key}.{TARGET} is {name}, which this command does not name; if you know what it does, "
                f"add --trust {module_of(name)}, or --config-dir with the yaml that has it"
            )


def strange(config: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """The keys that name something else than this package ships for them, and its name."""
    for key, name in targets(config):
        flower = key in ("strategy.server", "strategy.server.strategy") and FLOWER.fullmatch(name)
        if not (flower or (name.startswith("fl_bench.") and name in _shipped(WHERE.get(key, ())))):
            yield key, name


def targets(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each `_target_` in a config, with the key of its node."""
    if isinstance(node, Mapping):
        if TARGET in node:
            yield key, str(node[TARGET])
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from targets(value, key)


def named_in(folder: Path) -> Iterator[str]:
    """What the yamls of a folder of options name."""
    for file in folder.glob("**/*.yaml"):
        with file.open(encoding="utf-8") as stream:
            yield from (name for _, name in targets(yaml.safe_load(stream)))


def flags(config: Mapping[Any, Any]) -> Sequence[str]:
    """The words that let a later command build what this config names."""
    modules = dict.fromkeys(module_of(name) for _, name in strange(config))
    return [word for module in modules for word in ("--trust", module)]


def check_modules(modules: Collection[str]) -> None:
    """Raise ConfigError where a module is trusted that cannot be imported here."""
    for module in modules:
        found = None
        with suppress(ImportError, ValueError):  # of a package on the way to it, or of a name that is none
            found = find_spec(module)
        if found is None:
            raise ConfigError(f"--trust {module}: there is no such module here; it must be one that can be imported")


def module_of(name: str) -> str:
    return name.rpartition(".")[0] or name


@functools.cache
def _shipped(places: tuple[str, ...]) -> frozenset[str]:
    """What is defined at these places of the package, not what is imported there: found without importing it."""
    found = set()
    for place in places:
        for file in [PACKAGE / place] if place.endswith(".py") else (PACKAGE / place).glob("*.py"):
            module = ".".join((PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts))
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found |= {
                f"{module}.{node.name}"
                for node in tree.body
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            }
    return frozenset(found)
