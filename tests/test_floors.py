"""Imports run one way: a module may import its own floor and the floors below it."""

import ast
from pathlib import Path

import pytest

import fl_bench

PACKAGE = Path(fl_bench.__file__).parent
FLOORS = [
    ["__main__"],
    ["cli", "api"],
    ["commands"],
    ["studies"],
    ["runs"],
    ["engines", "observers"],
    ["deployment"],
    ["ledger"],
    ["federation"],
    ["attacks", "audit", "privacy", "robust", "vertical"],
    ["topologies"],
    ["strategies"],
    ["compression", "network", "tasks"],
    ["models", "results"],
    ["data"],
    ["storage"],
    ["masking"],
    ["config"],
    ["build"],
    ["tallies"],
    ["distances", "errors", "machine", "metrics", "rng"],
]
SHARED = {
    "adapters",
    "base",
    "colours",
    "layers",
    "server",
    "updates",
    "accountant",
    "turn",
    "sgd",
    "rates",
    "examples",
    "texts",
}
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def modules() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "__init__.py"]


def imports(file: Path) -> set[str]:
    """The modules that a file imports anywhere, with dots."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file: Path) -> None:
    for name in imports(file):
        if name.startswith("fl_bench."):
            other = name.split(".")[1]
            assert other == room(file) or FLOOR[other] > FLOOR[room(file)], f"{file.name} imports {name}"


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_imports_a_task_or_an_algorithm_by_name(file: Path) -> None:
    for name in imports(file):
        if name.startswith(("fl_bench.tasks.", "fl_bench.strategies.")):
            assert name.split(".")[2] in SHARED


def test_only_engines_and_sweeps_import_ray() -> None:
    users = {
        str(f.relative_to(PACKAGE))
        for f in modules()
        if any(n.split(".")[0] == "ray" or n.startswith("flwr.simulation") for n in imports(f))
    }
    assert users == {"engines/cluster.py", "engines/cluster_grid.py", "engines/ray_grid.py", "studies/workers.py"}


def test_only_one_verb_starts_hydras_jobs() -> None:
    assert [f.name for f in modules() if "_run_hydra" in f.read_text()] == ["run.py"]
