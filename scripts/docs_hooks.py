"""The pages of the site that are made while it is built, so that they cannot go stale.

`mkdocs.yml` names this file as a hook. The start page is README.md; the pages of the reference come from the comments
in conf/ and from what the verbs say about themselves; the API pages name modules, which mkdocstrings reads.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
REPOSITORY = "https://github.com/fl-bench/fl-bench/blob/main"

# Files outside docs/ that are pages too: where they are, and where they are on the site.
MIRRORED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/results.md": "benchmarks.md",
    "benchmarks/sweep.md": "benchmark-sweep.md",
    "benchmarks/deployment.md": "benchmark-deployment.md",
}
MODULES = (
    "strategies.base", "strategies.turn", "strategies.layers", "strategies.server", "tasks.base", "compression.base",
    "network.schedule", "metrics", "data.arrays", "data.partition", "data.shift", "data.drift", "data.augment",
    "attacks.base", "robust.base", "robust.before", "privacy.base", "topologies.base", "topologies.gossip",
    "engines.base", "observers.base", "observers.tracker",
)  # fmt: skip
# Entries that wire an option to its code: they are not for the command line.
WIRING = {"server", "client", "schedule", "up", "check", "expected", "needs_each_client", "source", "_target_"}


@dataclass
class Key:
    """A key of a yaml file, with dots, as it is written on the command line."""

    name: str
    value: str
    comment: str


@dataclass
class Option:
    """What a group offers: `conf/<group>/<name>.yaml`."""

    name: str
    comment: str  # the first of its file
    keys: list[Key] = field(default_factory=list)
    code: list[str] = field(default_factory=list)  # what it names by `_target_`
    takes: list[str] = field(default_factory=list)  # the options of other groups that it takes


def leaves(node: yaml.Node, prefix: str = "", lines: Sequence[int] = ()) -> Iterator[tuple[str, yaml.Node, list[int]]]:
    """Each key with dots that has no key below it, its value, and the lines of it and of the keys above it."""
    assert isinstance(node, yaml.MappingNode)
    for key, value in node.value:
        name, where = f"{prefix}{key.value}", (key.start_mark.line, *lines)
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from leaves(value, f"{name}.", where)
        else:
            yield name, value, list(where)


def comment_of(lines: list[str], number: int) -> str:
    """The comment behind a line with what goes on below it, or the one above it."""
    line = lines[number]
    parts = [text] if (text := _behind(line)) else []
    if parts:
        column = line.rindex("# " + text)
        for below in lines[number + 1 :]:
            if not below.strip().startswith("# ") or below.index("#") < column:
                break
            parts.append(below.strip()[2:])
    elif number and re.match(r" *# ", above := lines[number - 1]) and _indent(above) == _indent(line):
        is_head = all(before.startswith("#") for before in lines[:number])  # that of the option
        parts = [] if is_head else [above.strip()[2:]]
    return " ".join(parts)


def _behind(line: str) -> str:
    match = re.search(r"\s#\s(.*)$", line)
    return match[1].strip() if match and line[: match.start()].strip() else ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def keys_of(file: Path, prefix: str = "") -> list[Key]:
    """The keys of a yaml file, but for its defaults list, in their order; with their comment, or one from above."""
    text = file.read_text()
    lines = text.splitlines()
    found = []
    for name, value, numbers in leaves(yaml.compose(text, Loader=yaml.SafeLoader)):
        if name != "defaults":
            comment = next(filter(None, (comment_of(lines, number) for number in numbers)), "")
            found.append(Key(f"{prefix}{name}", text[value.start_mark.index : value.end_mark.index], comment))
    return found


@lru_cache
def known_comments() -> dict[str, str]:
    """By key: what another file says about it, where a key means the same in every file."""
    files = [CONF / "config.yaml", *(file for group in groups() for file in sorted((CONF / group).glob("*.yaml")))]
    comments: dict[str, str] = {}
    for file in files:
        group = str(file.parent.relative_to(CONF)) if file.parent != CONF else ""
        if not group.startswith(("strategy", "compression")):
            comments |= {key.name: key.comment for key in keys_of(file, _prefix(file, group)) if key.comment} | comments
    return comments


def _prefix(file: Path, group: str) -> str:
    """What stands before the keys of a file on the command line."""
    return f"{group.replace('/', '.')}." if group and not file.read_text().startswith("# @package _global_") else ""


def option_of(file: Path, group: str) -> Option:
    """What an option's file says."""
    lines = file.read_text().splitlines()
    heads = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
    prefix = _prefix(file, group)
    found = keys_of(file, prefix)
    own = [key for key in found if _is_for_users(key, prefix) and group != "study"]  # which has words of other groups
    for key in own:
        optimizer = "local.optimizer.name" if key.name.startswith("local.optimizer.") else key.name
        key.comment = key.comment or known_comments().get(key.name) or known_comments().get(optimizer, "")
    code = [key.value for key in found if key.name.endswith("_target_") and not key.name.startswith("strategy.check")]
    takes = []
    for entry in yaml.safe_load("\n".join(lines)).get("defaults", []):
        pairs = entry.items() if isinstance(entry, dict) else [(group.partition("/")[0], entry)]
        takes += [f"{name.removeprefix('override /')}={value}" for name, value in pairs if value != "_self_"]
    return Option(file.stem, heads[0] if heads else "", own, code, takes)


def _is_for_users(key: Key, prefix: str) -> bool:
    wiring = WIRING & set(key.name.removeprefix(prefix).split("."))
    return not wiring and not key.value.startswith(("${.", "${model"))


def groups() -> list[str]:
    """The folders below conf/, which hold options."""
    return sorted(str(folder.relative_to(CONF)) for folder in CONF.rglob("*") if folder.is_dir())


def page_of(group: str) -> str:
    """Where a group's page is."""
    return f"reference/{group.replace('/', '-')}.md"


def word_of(group: str) -> str:
    """What stands before the name of an option on the command line: experiments may lie in folders."""
    return group.replace("/", "=", 1) + "/" if group.startswith("experiment/") else f"{group}="


def options(group: str) -> list[Option]:
    return [option_of(file, group) for file in sorted((CONF / group).glob("*.yaml"))]


def plain(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return re.sub(r"([\\*_\[\]`])", r"\\\1", text)


def table(keys: list[Key]) -> str:
    """The keys with their defaults and comments."""
    rows = [f"| `{key.name}` | `{key.value}` | {plain(key.comment)} |" for key in keys]
    return "\n".join(["| key | default | what |", "|---|---|---|", *rows])


def keys_page() -> str:
    """Every key of conf/config.yaml."""
    chosen = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    pairs = [pair for entry in chosen if isinstance(entry, dict) for pair in entry.items()]
    rows = [f"| {_linked(group)} | `{name or 'null'}` |" for group, name in pairs if not group.startswith("override ")]
    sections: dict[str, list[Key]] = {}
    for key in keys_of(CONF / "config.yaml"):
        sections.setdefault(key.name.split(".")[0] if "." in key.name else "", []).append(key)
    return "\n\n".join(
        [
            "# Every key",
            "Written as `key=value` behind `fl-bench`; `fl-bench --cfg job` prints them all with the values of a run. "
            "A task or an experiment may have another default: its page says which. `${key}` is the value of that key.",
            "## Groups\n\nWritten as `group=option`; each has a page with all its options.",
            "\n".join(["| group | default |", "|---|---|", *rows]),
            "## The run",
            table(sections.pop("")),
            *(f"## {name}\n\n{table(keys)}" for name, keys in sections.items()),
        ]
    )


def _linked(group: str) -> str:
    return f"[`{group}=`](../{page_of(group)})" if (CONF / group).is_dir() else f"`{group}=`"


def group_page(group: str) -> str:
    """Every option of a group, with its first comment and its keys."""
    parts = [f"# {group}=", f"`{word_of(group)}NAME` takes one of these; `fl-bench list` prints them."]
    for option in options(group):
        code = ", ".join(f"`{name}`" for name in option.code)
        parts += [f"## {option.name}", plain(option.comment)]
        parts += [f"It takes {', '.join(f'`{word}`' for word in option.takes)}."] if option.takes else []
        parts += [table(option.keys)] if option.keys else []
        parts += [f"<small>Code: {code}</small>"] if code else []
    return "\n\n".join(parts)


def verbs() -> dict[str, str]:
    """What each verb prints when it is asked for help."""
    from fl_bench import commands

    return {verb: commands.parser_of(verb).format_help() for verb in commands.ours()}


def verbs_page() -> str:
    """What each verb says about itself."""
    os.environ["COLUMNS"] = "100"  # of argparse
    parts = ["# Verbs", "`fl-bench key=value ...` runs an experiment, `fl-bench -m key=a,b ...` one for each value."]
    parts += [f"## {verb}\n\n```text\n{text}\n```" for verb, text in verbs().items()]
    return "\n\n".join(parts)


def place_of(path: str) -> str:
    """Where a file of the repository is on the site; or in the repository, where the site does not have it."""
    module = path.removeprefix("fl_bench/").removesuffix(".py").replace("/", ".")
    if path in MIRRORED:
        return MIRRORED[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if module in MODULES:
        return f"api/{module}.md"
    if path == "conf/config.yaml":
        return "reference/keys.md"
    if path.removeprefix("conf/") in groups():
        return page_of(path.removeprefix("conf/"))
    return f"{REPOSITORY}/{path}"


def with_links(markdown: str, source: str, place: str) -> str:
    """The text of the file `source` as the page `place`: its links lead to the same things."""

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        path = place_of(os.path.normpath(Path(source).parent / target))
        relative = path if path.startswith("https:") else os.path.relpath(path, Path(place).parent)
        return f"]({relative}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", link, markdown)


def pages() -> dict[str, str]:
    """All pages that are made here, by their place on the site."""
    return {
        **{place: with_links((ROOT / source).read_text(), source, place) for source, place in MIRRORED.items()},
        "reference/keys.md": keys_page(),
        "reference/verbs.md": verbs_page(),
        **{page_of(group): group_page(group) for group in groups()},
        **{f"api/{name}.md": f"# fl_bench.{name}\n\n::: fl_bench.{name}\n" for name in MODULES},
    }


def on_config(config: Any) -> Any:
    """Put the pages that are made here into the navigation."""
    for section in config.nav:
        if "Reference" in section:
            section["Reference"][2:2] = [{f"{group}=": page_of(group)} for group in groups()]
        if "API" in section:
            section["API"] = [{name: f"api/{name}.md"} for name in MODULES]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for place, text in pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from docs/ to what is elsewhere in the repository."""
    place = page.file.src_uri
    return with_links(markdown, f"docs/{place}", place) if (ROOT / "docs" / place).exists() else markdown
