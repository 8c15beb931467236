"""Show what a curious server, or a curious client, learns of the clients' examples from what it sees.

fl-bench audit RUN                                # the first round's first client: images, labels, members
fl-bench audit RUN --round 3 --client 7 --what inversion,labels
fl-bench audit RUN --by client                    # what a client sees: the model before the round and after it
fl-bench audit RUN --shadows 32                   # membership also by shadow runs, which it makes
fl-bench audit RUN --what canaries --canaries 400 # an epsilon that the run has at least, beside the accountant's
fl-bench audit RUN --client 1                     # setting=vertical: labels that this client infers from gradients
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from fl_bench.commands import call
from fl_bench.commands._common import add_trust, folder, recorded
from fl_bench.config.rules import at_sites
from fl_bench.errors import ConfigError
from fl_bench.runs import shadows
from fl_bench.storage import run_json
from fl_bench.studies.sweep import RESUME, SWEEP_DIR

RESULT = "audit"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=folder)
    parser.add_argument("--round", type=int, default=1, help="without it, the first")
    parser.add_argument("--client", type=int, help="without it, the first honest one that trains")
    parser.add_argument("--by", choices=("server", "client"), default="server", help="who is curious")
    parser.add_argument("--what", help="some of inversion,labels,membership, or leakage; without it, all that fit")
    parser.add_argument("--images", type=int, default=8, help="how many to reconstruct at most")
    parser.add_argument("--iterations", type=int, default=1000, help="of the search for images")
    about = "how many shadow runs to make for membership"
    parser.add_argument("--shadows", type=int, default=0, metavar="N", help=about)
    about = "how many clients or rows to plant in a repetition of the run, to measure its epsilon; for runs with one"
    parser.add_argument("--canaries", type=int, default=0, metavar="N", help=about)
    parser.add_argument("--out", type=Path, help=f"the folder to write; without it, {RESULT}/ in RUN_DIR")
    add_trust(parser)


def command(given: argparse.Namespace) -> int:
    """Print a table, and write it and its figures into a folder."""
    run = given.run_dir
    record = run_json.read_run(run)
    cfg, origin = recorded(run, ["engine=inline"], given.config_dir, given.trust)
    for name in ("images", "iterations"):
        if getattr(given, name) < 1:
            raise ConfigError(f"--{name} {getattr(given, name)}: must be 1 or more")
    if given.shadows and given.shadows < shadows.FEWEST:
        raise ConfigError(f"--shadows {given.shadows}: must be {shadows.FEWEST} or more")
    if record["status"] != "done":
        raise ConfigError(f"{run}: is {record['status']}, not done; fl-bench resume ends it")
    if at_sites(record["config"]):
        raise ConfigError(f"{run}: is of a deployment, whose sites keep their rows: there is nothing to compare with")
    last = record["final"]["round"]
    if not 1 <= given.round <= last:
        raise ConfigError(f"--round {given.round}: must be from 1 to {last}, as the run has {last} rounds")
    if given.client is not None and given.by == "client":
        raise ConfigError(f"--client {given.client}: other clients see only what the server makes of all; leave it out")
    out = given.out or run / RESULT
    if not out.parent.is_dir() or out.is_file():
        raise ConfigError(f"--out {out}: must be a folder, in one that is there")

    folders: Sequence[Path] = ()
    if given.shadows:
        again = shlex.join(["fl-bench", "audit", str(run), "--shadows", str(given.shadows)])
        own = ["--config-dir", str(given.config_dir)] if given.config_dir else []
        words = origin.and_then(shadows.words(cfg, given.shadows), {}).overrides
        sweep = out / shadows.FOLDER
        if code := call("run", ["-m", *own, *words, f"{SWEEP_DIR}{sweep}", RESUME], again=again):
            return code
        folders = shadows.folders(cfg, sweep, given.shadows)

    from fl_bench.runs.audit import Wanted, audit  # torch and Flower

    what = given.what.split(",") if given.what is not None else []
    seen = (given.round, given.client, given.by)
    return audit(Wanted(cfg, run, out, *seen, what, given.images, given.iterations, given.canaries, folders))
