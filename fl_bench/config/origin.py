"""Where the config of a run comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The options that were chosen, by group, and the words of the command line."""

    choices: dict[str, str | None]
    overrides: list[str]
    sweep: str = ""  # the command that goes on with the sweep of which this run is a cell

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Origin":
        """The origin of a run with this run.json; older ones say nothing of it."""
        return cls(record.get("choices", {}), record.get("overrides", []))


UNKNOWN = Origin({}, [])
