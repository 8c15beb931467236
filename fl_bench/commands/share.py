"""Write the rows of a run's clients into folders, one for each site, to be carried there.

fl-bench share outputs/digits shares --sites hospital1,hospital2
"""

import argparse
from pathlib import Path

from fl_bench.commands._common import add_trust, folder, recorded
from fl_bench.commands.certs import SITES
from fl_bench.errors import ConfigError, plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=folder)
    parser.add_argument("folder", type=Path, help="a new one, with a folder for each site")
    parser.add_argument("overrides", nargs="*", default=[], help="key=value words, where the run is to be another")
    parser.add_argument("--sites", default=SITES, metavar="NAME,...", help=f"the sites; without it, {SITES}")
    add_trust(parser)


def command(given: argparse.Namespace) -> int:
    """Say what each site has."""
    sites = given.sites.split(",")
    if given.folder.exists():
        raise ConfigError(f"{given.folder}: is there already, and stays as it is")
    cfg, _ = recorded(given.run_dir, ["engine=inline", *given.overrides], given.config_dir, given.trust)

    from fl_bench.runs.share import share_out  # torch

    for site, clients in share_out(cfg, given.folder, sites).items():
        print(plain(f"{given.folder / site}: clients {clients[0]} to {clients[-1]}"))
    return 0
