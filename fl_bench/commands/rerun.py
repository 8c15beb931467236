"""Repeat a run from its run.json in a new folder beside it, and compare the two.

The exit code is 0 where it comes out the same again.
"""

import argparse

from omegaconf import OmegaConf

from fl_bench.commands._common import add_run, new_beside, recorded
from fl_bench.commands.verify import compare
from fl_bench.config.changes import refuse_changes
from fl_bench.runs.begin import Start
from fl_bench.runs.launch import launch


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)


def command(given: argparse.Namespace) -> int:
    """Run in RUN_DIR_again, or RUN_DIR_again2 and so on."""
    before, _ = recorded(given.run_dir, (), given.config_dir, given.trust)
    words = ["data.cache=null"] if before.data.cache else []  # the data too are made again
    cfg, origin = recorded(given.run_dir, [*words, *given.overrides], given.config_dir, given.trust)
    refuse_changes(OmegaConf.to_container(before, resolve=True), cfg, 0)  # type: ignore[arg-type]
    again = new_beside(given.run_dir, "again")
    code = launch(cfg, again, Start.NEW, origin)
    return max(code, compare(given.run_dir, again)) if code in (0, 1) else code
