"""What numbers in the data mean, where that follows from the rows of all: classes, scales of columns, a vocabulary,
channels.

Who has only a part of the rows cannot find it out, and reads it from a file, `data.facts`, that is the same for all.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fl_bench.data.arrays import writing_into
from fl_bench.errors import ConfigError

NAME = "facts.json"  # beside the data: what the numbers there mean


class _Stated(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Numbers(_Stated):
    """A column of numbers, which becomes (number - mean) / std; where `missing`, one more column says of each row
    whether it has none.
    """

    mean: float
    std: float
    missing: bool


class Words(_Stated):
    """A column of words, which becomes a column for each of these values; `usual` stands where there is none."""

    values: list[str]
    usual: str
    missing: bool


class Facts(_Stated):
    """What `data.facts` states."""

    classes: list[str]  # names, by the number that is their label
    columns: dict[str, Numbers | Words] | None = None  # those that a model sees, in their order
    vocabulary: list[str] | None = None  # words, by their number
    colours: bool | None = None  # whether images have three channels, not one

    @classmethod
    def read(cls, path: str) -> "Facts":
        """Raises ConfigError where the file cannot be read, or has something else in it."""
        try:
            return cls.model_validate_json(Path(path).expanduser().read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"data.facts={path}: {where or 'it'}: {first['msg']}") from None
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"data.facts={path}: cannot be read: {error}") from error

    def labels(self, names: Sequence[str], where: str) -> NDArray[np.int64]:
        """The numbers of these classes. Raises ConfigError, beginning with `where`, where one is none."""
        if strange := [name for name in names if name not in self.classes]:
            raise ConfigError(f"{where}: has {strange[0]}, which is no class of data.facts")
        return np.array([self.classes.index(name) for name in names], np.int64)

    def write(self, folder: Path) -> None:
        """For who has only a part of these data."""
        with writing_into(folder):
            (folder / NAME).unlink(missing_ok=True)  # it may be a link to what is to stay
            (folder / NAME).write_text(self.model_dump_json(exclude_none=True, indent=1), encoding="utf-8")
