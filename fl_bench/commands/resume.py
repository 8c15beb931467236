"""Go on with a run that was interrupted, or with more rounds."""

import argparse

from fl_bench.commands._common import add_run, recorded
from fl_bench.runs.begin import Start
from fl_bench.runs.launch import launch


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)


def command(given: argparse.Namespace) -> int:
    """Go on as if nothing had happened."""
    cfg, origin = recorded(given.run_dir, given.overrides, given.config_dir, given.trust)
    return launch(cfg, given.run_dir, Start.RESUME, origin)
