"""Compare two runs to the last bit: config, data, the model of each round, tables.

The exit code is 0 where they are the same, and 1 where they are not.
"""

import argparse
from pathlib import Path

from fl_bench.commands._common import folder
from fl_bench.errors import plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_a", type=folder)
    parser.add_argument("run_b", type=folder)


def command(given: argparse.Namespace) -> int:
    """Print a line for each difference."""
    return compare(given.run_a, given.run_b)


def compare(a: Path, b: Path) -> int:
    """Print how the runs in two folders differ; 0 where they are the same."""
    from fl_bench.runs.verify import differences, drift, left_out  # NumPy

    found = list(differences(a, b))
    for line in drift(a, b):
        print(plain(f"drifted: {line}"))
    for line in left_out(a, b):
        print(plain(f"not compared: {line}"))
    for line in found:
        print(plain(f"differs: {line}"))
    print(plain(f"{a}\n{b}\n") + (f"{len(found)} differences" if found else "the same to the last bit"))
    return 1 if found else 0
