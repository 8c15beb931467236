"""What a site takes care of in a masked sum, so that no driver can have its numbers alone: see masking/party.py.

It signs its public keys, and wants those of the others signed by them. Of one attempt it knows one circle of parties
only, masks one set of numbers only, as two with the same masks would say how they differ, and reveals shares for one
set of survivors only. What all of its clients weigh it says in one circle only: it is the same each time. What it has
promised lies on its disk, as does the secret from which its keys follow, so that a site that was killed goes on with
the same sum.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from flwr.app import Message

from fl_bench.deployment.keys import SiteKeys
from fl_bench.deployment.signing import Unproven
from fl_bench.federation.exchange import Job, Report
from fl_bench.federation.masked import KEYS, REVEAL, TRAIN, WEIGH, circle_of
from fl_bench.storage import files

PURPOSE = b"fl-bench masks 1\0"  # before what is signed
ATTEMPT = re.compile(r"[0-9a-f]{32}")
SECRET, PROMISES = "masks.secret", "masks.json"
Wish = Mapping[str, Any]


def allowed(job: Job, asked: str, name: str, keys: SiteKeys, folder: Path) -> dict[str, Any]:
    """What a job asks of the masks of the site `name`, with its secret. Raises Unproven.

    `asked` is a digest of all that came with the job; `folder` is that of its run.
    """
    assert job.masks is not None
    wish = job.masks
    if wish["parties"] != {name: [*job.clients]} or not ATTEMPT.fullmatch(wish["attempt"]):
        raise Unproven("it is of another party's masks")
    folder.mkdir(parents=True, exist_ok=True)
    if wish["ask"] != KEYS:
        for member, (seal, pairs, signature) in wish["circle"].items():
            _verify(wish["attempt"], member, seal, pairs, signature, keys)
        _promise(folder, f"{wish['attempt']} circle", circle_of(wish).digest)
    if wish["ask"] in (TRAIN, WEIGH):
        _promise(folder, f"{wish['attempt']} numbers", asked)
    if wish["ask"] == WEIGH:
        _promise(folder, "weights circle", " ".join(sorted(wish["circle"])))
    if wish["ask"] == REVEAL:
        survivors = json.dumps(sorted(wish["survivors"]))
        _promise(folder, f"{wish['attempt']} survivors", hashlib.sha256(survivors.encode()).hexdigest())
    return {**wish, "secret": _secret(folder).hex()}


def signed(reply: Message, wish: Wish, name: str, keys: SiteKeys, message: Message) -> Message:
    """The reply to `message`, with a signature where it has the keys of this site."""
    if wish["ask"] != KEYS:
        return reply
    report = Report.of(reply)
    seal, pairs = report.said[name]
    signature = keys.key.sign(_statement(wish["attempt"], name, seal, pairs)).hex()
    return replace(report, said={name: [seal, pairs, signature]}).reply_to(message)


def _verify(attempt: str, name: str, seal: str, pairs: str, signature: str, keys: SiteKeys) -> None:
    if name not in keys.peers:
        raise Unproven(f"{name} is no site whose {name}.pub is in the folder peers of --certs")
    try:
        keys.peers[name].verify(bytes.fromhex(signature), _statement(attempt, name, seal, pairs))
    except InvalidSignature:
        raise Unproven(f"the keys that are said to be those of {name} are not signed by it") from None


def _statement(attempt: str, name: str, seal: str, pairs: str) -> bytes:
    return PURPOSE + f"{attempt} {name} {seal} {pairs}".encode()


def _promise(folder: Path, what: str, digest: str) -> None:
    """Remember it, or raise Unproven where something else was promised."""
    file = folder / PROMISES
    promises = json.loads(file.read_text()) if file.exists() else {}
    if promises.setdefault(what, digest) != digest:
        raise Unproven(f"it asks a second time for the sum {what.split()[0]}, of others")
    files.write(file, json.dumps(promises).encode())


def _secret(folder: Path) -> bytes:
    """32 bytes, for their owner only."""
    file = folder / SECRET
    if not file.exists():
        temporary = file.with_suffix(".tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(secrets.token_bytes(32))
        os.replace(temporary, file)
    return file.read_bytes()
