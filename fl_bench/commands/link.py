"""Start a link: the SuperLink of Flower that a deployment's driver and sites connect to, with TLS and known keys only.

fl-bench link --certs keys/link --database link.db
"""

import argparse
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

from fl_bench.commands._common import end_in_order
from fl_bench.errors import ConfigError, plain

HOST, PORT = "127.0.0.1", 8000


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--certs", required=True, type=Path, help="the folder link that `fl-bench certs` has made")
    parser.add_argument("--host", default=HOST, help=f"the address to listen at; without it, {HOST}: this machine only")
    parser.add_argument("--port", type=int, default=PORT, help=f"without it, {PORT}")
    about = "where all is kept, so that nothing is lost when the link is killed; without it, in memory"
    parser.add_argument("--database", type=Path, help=about)


def command(given: argparse.Namespace) -> int:
    """Until Ctrl-C or SIGTERM; once it listens, say what each site types."""
    from fl_bench.deployment import keys

    nodes = keys.nodes_of_link(given.certs)
    _refuse_taken(given.host, given.port)
    if given.database is not None:
        _refuse_other(given.database)
    end_in_order()

    from fl_bench.deployment.link import EVERYWHERE, address, serve  # Flower's server side: a second

    def ready() -> None:
        reached = f"HOST:{given.port}" if given.host in EVERYWHERE else address(given.host, given.port)
        for name in nodes:
            print(plain(f"fl-bench site --link {reached} --name {name} --certs {name} --data DATA --root ROOT"))
        print(plain(f"fl-bench engine=deployment engine.link={reached} engine.certs=driver engine.sites={len(nodes)}"))
        print(f"link: listening at {address(given.host, given.port)}", flush=True)

    return serve(given.certs, given.host, given.port, given.database, nodes, ready)


def _refuse_taken(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be listened at: {error}") from error


def _refuse_other(database: Path) -> None:
    try:
        with closing(sqlite3.connect(database)) as opened:
            opened.execute("PRAGMA schema_version")  # which reads the file
    except sqlite3.Error as error:
        raise ConfigError(f"--database {database}: must be a link's database, or a new file: {error}") from error
