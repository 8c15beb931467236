"""Start a link: the SuperLink of Flower that a deployment's driver and sites connect to, with TLS and known keys only.

fl-bench link --certs keys/link --database link.db
"""

import argparse
import socket
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
    end_in_order()

    from fl_bench.deployment.link import serve  # Flower's server side: a second

    def ready() -> None:
        reached = f"HOST:{given.port}" if given.host == "0.0.0.0" else f"{given.host}:{given.port}"
        for name in nodes:
            print(plain(f"fl-bench site --link {reached} --name {name} --certs {name} --data DATA --root ROOT"))
        print(plain(f"fl-bench engine=deployment engine.link={reached} engine.certs=driver engine.sites={len(nodes)}"))
        print(f"link: listening at {given.host}:{given.port}", flush=True)

    return serve(given.certs, given.host, given.port, given.database, nodes, ready)


def _refuse_taken(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be listened at: {error}") from error
