"""Say what there is to type, or all that one verb takes."""

import argparse
import re
from collections.abc import Iterator

import yaml

from fl_bench import commands
from fl_bench.commands._common import add_config_dir
from fl_bench.config.compose import GROUPS, MAIN, options

WIDTH = 42  # of a key with its default


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", nargs="?", help="one of the verbs: all that it takes")
    add_config_dir(parser)


def command(given: argparse.Namespace) -> int:
    """Print the help of a verb, or all verbs, groups and keys."""
    if given.verb:
        print(commands.parser_of(given.verb).format_help(), end="")
        return 0
    print("fl-bench [VERB] [key=value ...]\n\nverbs, of which `run` need not be said; `fl-bench help VERB` says more:")
    for name in commands.ours():
        print(f"  {name:<10} {(commands.find(name).__doc__ or '').splitlines()[0]}")
    for name, point in commands.theirs().items():
        print(f"  {name:<10} from {point.value}")
    print("\ngroups, chosen as group=option; `fl-bench list` describes the options:")
    for group in GROUPS:
        print(f"  {group:<17} {', '.join(options(group, given.config_dir))}")
    print("\nkeys with their defaults, some of which a task replaces; `fl-bench task=cifar --cfg job` shows its own:")
    for key, value, comment in keys():
        print(f"  {f'{key}={value}':<{WIDTH}} {comment}".rstrip())
    return 0


def keys() -> Iterator[tuple[str, str, str]]:
    """The keys of the default config, each with its value and its comment as they stand in the yaml."""
    text = MAIN.read_text(encoding="utf-8")
    lines, node = text.splitlines(), yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    shown = 0  # the line whose comment has been given: several keys may share one
    for key, value in _leaves(node, ""):
        if key.split(".")[0] not in ("defaults", "hydra"):
            line = value.start_mark.line
            found = re.search(r"\s# (.*)", lines[line]) if line > shown else None
            shown = line
            yield key, text[value.start_mark.index : value.end_mark.index], found[1] if found else ""


def _leaves(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", value
