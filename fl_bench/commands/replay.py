"""Repeat one client's turn of a run, and compare it with its row of clients.csv.

The exit code is 0 where its numbers are those of clients.csv. Where the run is a deployment's, the turn is taken at the
site that has the client, with nothing changed there; the round before must have a checkpoint.
"""

import argparse

from fl_bench.commands._common import add_trust, folder, recorded
from fl_bench.config.rules import at_sites
from fl_bench.errors import ConfigError
from fl_bench.storage import run_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=folder)
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--client", type=int, required=True)
    parser.add_argument("--evaluation", action="store_true", help="its evaluation at the end of the round instead")
    parser.add_argument("--debug", action="store_true", help="stop in pdb where the turn begins")
    add_trust(parser)


def command(given: argparse.Namespace) -> int:
    """Print the client's row."""
    if given.round < (0 if given.evaluation else 1):
        raise ConfigError(f"--round {given.round}: training begins with round 1, evaluation with round 0")
    away = at_sites(run_json.read_run(given.run_dir)["config"])
    if away and given.debug:
        raise ConfigError("--debug: the turn is taken at a site, and there is no terminal")
    words = [] if away else ["engine=inline", *(["engine.client_timeout_s=null"] if given.debug else [])]
    cfg, _ = recorded(given.run_dir, words, given.config_dir, given.trust)
    if given.evaluation and not (cfg.evaluate.clients or cfg.partition.get("unseen")):
        raise ConfigError("--evaluation: the run has evaluate.clients=false, so no client was evaluated")
    if given.round > cfg.num_rounds:
        raise ConfigError(f"--round {given.round}: the run has {cfg.num_rounds} rounds")

    from fl_bench.runs.replay import replay  # torch and Flower

    return replay(cfg, given.run_dir, given.round, given.client, given.evaluation, given.debug)
