"""Where the config of a run comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The options that were chosen, by group, and the words of the command line."""

    choices: dict[str, str | None]
    overrides: list[str]
    sweep: str = ""  # the command that goes on with the sweep of which this run is a cell
    hydra: Mapping[str, str] = field(default_factory=dict)  # the files of .hydra/, by name

    @property
    def named(self) -> set[str]:
        """The keys that the words begin with, also those of words that Hydra's grammar cannot take."""
        return set(map(_key, self.overrides))

    def and_then(self, words: Sequence[str], choices: Mapping[str, str]) -> "Origin":
        """This origin with later `words`, which replace those of the same keys, and what they have chosen."""
        later = {_key(word) for word in words}
        kept = [word for word in self.overrides if _key(word) not in later]
        return replace(self, choices={**self.choices, **choices}, overrides=[*kept, *words])

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Origin":
        """The origin of a run with this run.json; older ones say nothing of it."""
        return cls(record.get("choices", {}), record.get("overrides", []))


def _key(word: str) -> str:
    """The key that a word of the command line sets."""
    return word.partition("=")[0].lstrip("+~")


UNKNOWN = Origin({}, [])
