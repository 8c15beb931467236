"""The words of the command line before Hydra reads them: what its grammar cannot take is quoted, or said how to."""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException

from fl_bench.build import nearest
from fl_bench.config.compose import GROUPS, options
from fl_bench.errors import ConfigError

PLAIN = re.compile(r"[^'\"\\{}\[\](),=$*\x00-\x1f]+")  # a value that can only be meant as it stands, such as a path


def readable(words: Iterable[str]) -> list[str]:
    """The words, with quotes around a value that is plain text and that Hydra's grammar cannot take without."""
    return [word if _parses(word) else _quoted(word) for word in words]


def assignments(words: Iterable[str]) -> list[Override]:
    """The words where each has to give a key one value."""
    overrides = OverridesParser.create().parse_overrides(readable(words))
    for override in overrides:
        if override.is_sweep_override() or override.is_delete() or not override.key_or_group:
            raise ConfigError(f"{override.input_line}: must be KEY=VALUE, with one value")
    return overrides


def beside_options(words: Sequence[str]) -> list[str]:
    """The words of a sweep, in which a key of a group whose options are swept is swept too, over its one value.

    Hydra would give such a key its value before it has chosen an option: strategy=fedadam,fedyogi strategy.eta=0.1.
    """
    overrides = OverridesParser.create().parse_overrides(list(words))
    swept = [o.key_or_group for o in overrides if o.key_or_group in GROUPS and o.is_sweep_override()]
    found = []
    for word, override in zip(words, overrides, strict=True):
        inside = any(override.key_or_group.startswith(f"{group.replace('/', '.')}.") for group in swept)
        key, _, value = word.partition("=")
        alone = not override.is_sweep_override() and not override.is_delete()
        found.append(f"{key}=choice({value})" if inside and alone else word)
    return found


def refuse_choices(words: Sequence[str], multirun: bool, own: Path | None) -> None:
    """Raise ConfigError for a group of which something else than one option is chosen, and for a sweep over nothing."""
    for override in OverridesParser.create().parse_overrides(list(words)):
        key, value, word = override.key_or_group, override.value(), override.input_line
        if not key:
            raise ConfigError(f"{word}: has no key; say KEY=VALUE")
        if multirun and override.is_discrete_sweep() and not values(override, own):
            raise ConfigError(f"{word}: is a sweep over nothing")
        chosen = override.is_delete() or override.is_sweep_override() or isinstance(value, str)
        if key in GROUPS and not chosen:
            raise ConfigError(f"{word}: must name one option; {nearest(str(value), options(key, own))}")


def values(override: Override, own: Path | None) -> list[str]:
    """What a sweep goes over."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(list(options(override.key_or_group, own)))
    return list(override.sweep_string_iterator())


def as_text(text: str) -> str:
    """The text as Hydra's grammar has it, in quotes where it would mean something else, such as a number or a list."""
    parse = OverridesParser.create().parse_override
    try:
        means_itself = parse(f"key={text}").value() == text and parse(f"key=[{text}]").value() == [text]
    except HydraException:
        means_itself = False
    return text if means_itself else quoted(text)


def quoted(text: str) -> str:
    """The text in quotes of Hydra's."""
    return QuotedString(text, Quote.single).with_quotes()


def _for_the_shell(word: str) -> str:
    return shlex.quote(word) if set(word) & set('"$`!') else f'"{word}"'


def _parses(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _quoted(word: str) -> str:
    """The word with its value in quotes, where that says the same; otherwise ConfigError says how it would be read."""
    key, equals, value = word.partition("=")
    whole = f"{key}={quoted(value)}"
    if not equals or not _parses(whole):
        raise ConfigError(f"{word}: cannot be read; say KEY=VALUE, and a text with signs in it as KEY='\"TEXT\"'")
    if not PLAIN.fullmatch(value):
        raise ConfigError(f"{word}: cannot be read; if its value is meant as it stands: {_for_the_shell(whole)}")
    return whole
