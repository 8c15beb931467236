"""Be a site: stay connected to a link, and train on your own rows what a run's driver has signed.

fl-bench site --link fl.example.org:8000 --name hospital1 --certs hospital1 --data data --root state
"""

import argparse
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from fl_bench.commands._common import end_in_order, numbers_of
from fl_bench.config import trust
from fl_bench.config.rules import require_address
from fl_bench.errors import ConfigError, note, plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--link", required=True, metavar="HOST:PORT")
    parser.add_argument("--name", required=True, help="that of the site, as `fl-bench certs` was told")
    parser.add_argument("--certs", required=True, type=Path, help="the folder of this site that `fl-bench certs` made")
    parser.add_argument("--data", required=True, type=Path, help="its rows, as `fl-bench share` writes them")
    about = "those of the clients in --data who take part, such as 0,2-5; without it, all"
    parser.add_argument("--clients", help=about)
    parser.add_argument("--root", required=True, type=Path, help="all that it writes: what clients keep between rounds")
    about = "a module that runs may be made of here besides fl-bench's own; may be said again"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=about)
    parser.add_argument("--only-masked", action="store_true", help="say nothing but in sums that nobody can take apart")


def command(given: argparse.Namespace) -> NoReturn:
    """Until Ctrl-C or SIGTERM."""
    end_in_order()
    require_address("--link", given.link, " ")
    trust.check_modules(given.trust)
    from fl_bench.deployment import keys
    from fl_bench.deployment.fleet_api import Line, Lost
    from fl_bench.deployment.site import Site  # torch
    from fl_bench.federation import flower_log

    flower_log.quieten()
    known, only = keys.of_site(given.certs), None if given.clients is None else numbers_of("--clients ", given.clients)
    if not (given.data / "partition.rows.npy").is_file():
        raise ConfigError(f"--data {given.data}: has no rows that `fl-bench share` has written")
    _hold(given.root)
    site = Site(given.name, known, given.data, given.root, given.trust, given.only_masked, only)
    line = Line(given.link, known.ca, known.node, given.root / "number")
    rows = sum(held.train + held.heldout for held in site.clients.values())
    while True:
        with suppress(Lost), line.present():
            print(plain(f"{given.name}: at {given.link}, with {len(site.clients)} clients and {rows} rows"), flush=True)
            line.serve(site.answer)
        note(f"the connection to {given.link} was lost: introducing this site again")
        time.sleep(1)


def _hold(root: Path) -> None:
    """Let no other site write here as long as this one does."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        fcntl.flock(os.open(root, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"--root {root}: another site is using it") from None
    except OSError as error:
        raise ConfigError(f"--root {root}: cannot be a folder to write to: {error.strerror}") from error
