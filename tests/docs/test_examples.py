"""The examples in the docstrings of the API pages do what they say, and nothing public there is without a docstring."""

import doctest
import importlib
import inspect
import re
from functools import cached_property
from pathlib import Path
from types import ModuleType

import pytest

HOOKS = Path(__file__).parent.parent.parent / "scripts" / "docs_hooks.py"
(listed,) = re.findall(r"^MODULES = \((.*?)^\)", HOOKS.read_text(), re.DOTALL | re.MULTILINE)
MODULES = re.findall(r'"([\w.]+)"', listed)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"fl_bench.{name}")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(load(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    counts = {name: sum(len(test.examples) for test in finder.find(load(name))) for name in MODULES}
    without = {name for name, count in counts.items() if not count}
    assert without == {"strategies.turn", "data.augment", "data.shift", "topologies.base"}  # pages show them


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    module = load(name)
    own = {key: thing for key, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__}
    public = {key: thing for key, thing in own.items() if not key.startswith("_") and callable(thing)}
    for key, thing in list(public.items()):
        parts = vars(thing).items() if inspect.isclass(thing) else []
        public |= {f"{key}.{part}": code for part, code in parts if not part.startswith("_") and _is_code(code)}
    assert [key for key, thing in public.items() if not inspect.getdoc(thing)] == []


def _is_code(part: object) -> bool:
    return inspect.isroutine(part) or isinstance(part, property | cached_property)
