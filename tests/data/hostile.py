"""What the tests of hostile data, models and traces share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_bench.errors import ConfigError

Change = Callable[[Path], Any]
TEXTS = ["a good film", "a bad film , not good", "the plot was fine", "a good plot"] * 10
WEIGHTS = "model.safetensors"


def refusal(read: Callable[[], Any]) -> str:
    """The line with which it is refused."""
    with pytest.raises(ConfigError) as error:
        read()
    return str(error.value)


class Evil:
    """What is run when a pickle of it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)
