"""Make the keys and certificates of a deployment, or those of more sites: no file is ever written over.

fl-bench certs keys --sites hospital1,hospital2 --host fl.example.org
"""

import argparse
from pathlib import Path

from fl_bench.errors import plain

SITES = "site1,site2,site3"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sites", default=SITES, metavar="NAME,...", help=f"the sites; without it, {SITES}")
    about = "names and addresses at which sites and driver reach the link, besides localhost"
    parser.add_argument("--host", default="", metavar="HOST,...", help=about)


def command(given: argparse.Namespace) -> int:
    """Say which folder goes where."""
    from fl_bench.deployment import keys  # cryptography

    sites = given.sites.split(",")
    keys.make(given.folder, sites, [host for host in given.host.split(",") if host])
    print(plain(f"{given.folder / 'link'}: for the machine of the link"))
    print(plain(f"{given.folder / 'driver'}: for who runs experiments"))
    for site in sites:
        print(plain(f"{given.folder / 'sites' / site}: for {site}, which alone should have it: delete it here then"))
    if len(list((given.folder / "driver" / "sites").iterdir())) > len(sites):
        print("for runs with masks, sites that were there before need the keys of the new: the new files in peers/")
    return 0
