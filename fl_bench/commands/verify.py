"""Compare two runs to the last bit, or look whether a run's ledger is as it was signed.

fl-bench verify RUN_A RUN_B                       # config, data, the model of each round, tables
fl-bench verify RUN                               # ledger=signed: signatures, chain, and every model made again
fl-bench verify RUN --certs keys/driver           # and that the keys are those of a deployment
fl-bench verify RUN --client 3                    # and the proofs that what this client has sent is in it
fl-bench verify RUN --contribution                # and what each round would have been without each client

The exit code is 0 where they are the same, or the ledger holds, and 1 where not.
"""

import argparse
from pathlib import Path

from fl_bench.commands._common import add_trust, folder, recorded
from fl_bench.config import trust
from fl_bench.errors import ConfigError, plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_a", type=folder)
    parser.add_argument("run_b", type=folder, nargs="?")
    parser.add_argument("--certs", type=Path, help="a deployment's folder driver: its ledger must have these keys")
    parser.add_argument("--client", type=int, help="show the proofs that what it has sent is in the ledger")
    parser.add_argument("--contribution", action="store_true", help="write contribution.csv; needs the run's data")
    add_trust(parser)


def command(given: argparse.Namespace) -> int:
    """Print a line for each difference, or for each fault of the ledger."""
    if given.run_b is None:
        return of_ledger(given)
    if given.certs is not None or given.client is not None or given.contribution:
        raise ConfigError("--certs, --client, --contribution: are for the ledger of one run; leave out the other")
    return compare(given.run_a, given.run_b)


def compare(a: Path, b: Path) -> int:
    """Print how the runs in two folders differ; 0 where they are the same."""
    from fl_bench.runs.verify import differences, drift, left_out  # NumPy

    found = list(differences(a, b))
    for line in drift(a, b):
        print(plain(f"drifted: {line}"))
    for line in left_out(a, b):
        print(plain(f"not compared: {line}"))
    for line in found:
        print(plain(f"differs: {line}"))
    print(plain(f"{a}\n{b}\n") + (f"{len(found)} differences" if found else "the same to the last bit"))
    return 1 if found else 0


def of_ledger(given: argparse.Namespace) -> int:
    """Print what is wrong with the ledger of a run, or what holds; 0 where nothing is wrong."""
    from fl_bench.deployment import keys
    from fl_bench.ledger import chain  # Flower

    run = given.run_a
    ledger = run / chain.FOLDER
    if not chain.rounds(ledger):
        raise ConfigError(f"{run}: has no ledger; a run with ledger=signed has one. To compare two runs, name both")
    found = list(chain.faults(ledger))
    if not found and given.certs is not None:
        found = list(chain.strangers(chain.read(ledger, 0).header, *keys.signing(given.certs)))
    if not found:
        first = chain.read(ledger, 0).header
        named = [*given.trust, *(trust.named_in(given.config_dir) if given.config_dir else ())]
        trust.refuse_strange(run, first["config"], named)

        from fl_bench.runs.recompute import faults  # torch

        found = list(faults(run))
    for line in found:
        print(plain(line))
    if found:
        print(plain(f"{run}\n{len(found)} faults"))
        return 1
    last = chain.rounds(ledger)[-1]
    print(plain(f"{run}\nblocks 0 to {last}: as they were signed, and their models are what their updates make"))
    print(f"block {last} is {chain.read(ledger, last).digest}, and the server {first['server']}")
    if given.client is not None:
        _prove(ledger, given.client)
    if given.contribution:
        cfg, _ = recorded(run, ["engine=inline"], given.config_dir, given.trust)

        from fl_bench.runs.contribution import contribution

        contribution(cfg, run)
    return 0


def _prove(ledger: Path, client: int) -> None:
    """Print by round where a client's statement is in the tree, and the path to the root that the server has signed."""
    from fl_bench.ledger import chain, merkle

    blocks = [chain.read(ledger, round) for round in chain.rounds(ledger)]
    found = 0
    for block in blocks:
        clients = [statement["body"]["answer"]["client"] for statement in block.statements]
        if client in clients:
            found, index = found + 1, clients.index(client)
            path = [node.hex() for node in merkle.path(block.leaves, index)]
            print(f"round {block.round}: leaf {index} of {len(clients)}, path {' '.join(path) or 'empty'}")
            print(f"    root {block.header['root']}, what was sent {block.updates.get(client, 'nothing')}")
    if not found:
        raise ConfigError(f"--client {client}: has signed nothing in {ledger}")
