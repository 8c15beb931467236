"""Write the rows of clients into folders, one for each site of a deployment, to be carried there.

fl-bench share outputs/digits shares --sites hospital1,hospital2              # in equal parts
fl-bench share outputs/digits shares --sites hospital1=0-3,hospital2=4,6-9    # who has which clients
fl-bench share task=tabular data=csv data.root=all.csv data.label=ill num_clients=3 shares

Who has only the rows of one client makes its site's folder of them, without those of others:

fl-bench share task=tabular data=csv data.root=mine.csv data.label=ill data.facts=facts.json num_clients=5 \\
    --as-client 2 mine
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from fl_bench.commands._common import add_trust, composed, folder, numbers_of, recorded
from fl_bench.commands.certs import SITES
from fl_bench.errors import ConfigError, plain


def arguments(parser: argparse.ArgumentParser) -> None:
    about = "[RUN_DIR] FOLDER, of which the last must be new, and key=value words: of a run, or what is to be otherwise"
    parser.add_argument("words", nargs="+", metavar="WORD", help=about)
    which = parser.add_mutually_exclusive_group()
    about = f"the sites, in equal parts or with the clients of each; without it, {SITES}"
    which.add_argument("--sites", default=SITES, metavar="NAME[=CLIENTS],...", help=about)
    about = "all rows of the data, in their order, are this client's, and FOLDER is that of its site"
    which.add_argument("--as-client", type=int, metavar="CLIENT", help=about)
    add_trust(parser)


def command(given: argparse.Namespace) -> int:
    """Say what each site has."""
    places = [word for word in given.words if "=" not in word or Path(word).is_dir()]
    words = [word for word in given.words if word not in places]
    if len(places) > 2 or len(places) + bool(words) < 2:
        raise ConfigError("share: takes RUN_DIR FOLDER, or key=value words and FOLDER")
    target = Path(places[-1])
    if target.exists():
        raise ConfigError(f"{target}: is there already, and stays as it is")
    sites = {} if given.as_client is not None else _sites(given.sites)
    cfg = _config(given, places[:-1], words)

    from fl_bench.runs.share import share_out, share_own  # torch

    if given.as_client is not None:
        held = share_own(cfg, target, given.as_client)
        print(plain(f"{target}: client {given.as_client}: {held.train} rows to train on and {held.heldout} held out"))
        return 0
    for site, clients in share_out(cfg, target, sites).items():
        print(plain(f"{target / site}: clients {', '.join(map(str, clients))}"))
    return 0


def _config(given: argparse.Namespace, run: Sequence[str], words: Sequence[str]) -> DictConfig:
    """That of the run, if there is one, with these words."""
    if run:
        return recorded(folder(run[0]), ["engine=inline", *words], given.config_dir, given.trust)[0]
    return composed(words, given.config_dir)


def _sites(text: str) -> dict[str, list[int]]:
    """By name: the clients of each site, none where they are to be in equal parts."""
    from fl_bench.deployment.keys import NAME  # cryptography

    parts: dict[str, list[str]] = {}
    for part in text.split(","):
        name, equals, numbers = part.partition("=")
        if "=" in text and not equals and parts:  # a=0-3,7: more clients of the same site
            parts[[*parts][-1]].append(part)
            continue
        if not NAME.fullmatch(name) or name in parts or bool(equals) != ("=" in text):
            raise ConfigError(f"--sites {text}: must be NAME,NAME,... or NAME=CLIENTS,..., such as a=0-3,b=4,7")
        parts[name] = [numbers] if equals else []
    return {name: numbers_of(f"--sites {name}=", ",".join(found)) if found else [] for name, found in parts.items()}
