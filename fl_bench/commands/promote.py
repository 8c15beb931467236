"""Run the config of a finished simulation on the sites of a deployment, and compare the two.

fl-bench promote outputs/digits --link fl.example.org:8000 --certs keys/driver

The exit code is 0 where they are the same to the last bit: partition, models and tables.
"""

import argparse
from pathlib import Path

from omegaconf import OmegaConf

from fl_bench.commands._common import add_run, new_beside, recorded
from fl_bench.commands.verify import compare
from fl_bench.config.changes import refuse_changes
from fl_bench.config.rules import at_sites
from fl_bench.config.words import as_text
from fl_bench.errors import ConfigError
from fl_bench.runs.begin import Start
from fl_bench.runs.launch import launch
from fl_bench.storage import run_json


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--link", required=True, metavar="HOST:PORT", help="that `fl-bench link` has started")
    parser.add_argument("--certs", required=True, type=Path, help="the folder driver that `fl-bench certs` has made")
    about = "how many must be there; without it, all whose keys are in --certs"
    parser.add_argument("--sites", type=int, help=about)
    parser.add_argument("--out", type=Path, help="a new folder for the run; without it, RUN_DIR_deployed")


def command(given: argparse.Namespace) -> int:
    """Run in the new folder."""
    record = run_json.read_run(given.run_dir)
    if record["status"] != "done" or at_sites(record["config"]):
        raise ConfigError(f"{given.run_dir}: must be a simulation that has ended, to be compared with")
    from fl_bench.deployment import keys  # cryptography

    sites = given.sites or len(keys.of_driver(given.certs).sites)
    before, _ = recorded(given.run_dir, (), given.config_dir, given.trust)
    link, certs = as_text(given.link), as_text(str(given.certs.absolute()))
    words = ["engine=deployment", f"engine.link={link}", f"engine.certs={certs}"]
    words += [f"engine.sites={sites}", *(["data.cache=null"] if before.data.cache else [])]
    cfg, origin = recorded(given.run_dir, [*words, *given.overrides], given.config_dir, given.trust)
    refuse_changes(OmegaConf.to_container(before, resolve=True), cfg, 0)  # type: ignore[arg-type]
    folder = given.out.absolute() if given.out else new_beside(given.run_dir, "deployed")
    folder.mkdir(parents=True, exist_ok=True)
    return launch(cfg, folder, Start.NEW, origin) or compare(given.run_dir, folder)
