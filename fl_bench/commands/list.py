"""Describe the options of every group, those in a folder of one's own too."""

import argparse

from fl_bench.commands._common import add_config_dir
from fl_bench.config.compose import GROUPS, options
from fl_bench.errors import plain

STUDY = "study"  # no group of Hydra's: with -m, see fl_bench/studies/arms.py


def arguments(parser: argparse.ArgumentParser) -> None:
    add_config_dir(parser)


def command(given: argparse.Namespace) -> int:
    """Print the first comment of each option's yaml."""
    for group in (*GROUPS, STUDY):
        print(f"{group}=")
        for name, file in options(group, given.config_dir).items():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            comments = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
            print(plain(f"  {name:<22} {''.join(comments[:1])}".rstrip()))
    return 0
