"""What a client signs of a round: what it was sent, what it sends, and what it says of its turn.

What is signed, and what digests are of, are bytes: models as little-endian float32, everything else as JSON with sorted
keys and without spaces.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import Message
from numpy.typing import NDArray

from fl_bench.federation.exchange import Answer, Job, Report, Status
from fl_bench.federation.parameters import Layout
from fl_bench.storage.buffers import arrays_in

STATEMENT, BLOCK = b"fl-bench statement 1\0", b"fl-bench block 1\0"  # before what is signed: none serves as the other
SIGNING = (Status.OK, Status.WITHHELD)  # who has trained
FLOAT = "<f4"


def canonical(value: Any) -> bytes:
    """The one way in which a value is written."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest(content: bytes | NDArray[np.float32]) -> str:
    """SHA-256 of bytes, or of a model [P]."""
    raw = content if isinstance(content, bytes) else np.ascontiguousarray(content, FLOAT).data
    return sha256(raw).hexdigest()


def statements(run: str, round: int, answers: Iterable[Answer]) -> dict[int, dict[str, Any]]:
    """By client that has trained: what is signed of its answer."""
    starts: dict[int, str] = {}  # most have begun with one model
    bodies = {}
    for answer in (answer for answer in answers if answer.status in SIGNING):
        assert answer.sent is not None
        start, model, _ = answer.sent
        starts[id(start)] = starts.get(id(start)) or digest(start)
        update = None if model is None else digest(model)
        body = {"run": run, "round": round, "start": starts[id(start)], "update": update, "answer": answer.to_json()}
        bodies[answer.client] = body
    return bodies


def sign(key: Ed25519PrivateKey, purpose: bytes, body: Any) -> str:
    """The signature of the body, in hexadecimal digits."""
    return key.sign(purpose + canonical(body)).hex()


def is_signed(key: Ed25519PublicKey, purpose: bytes, body: Any, signature: str) -> bool:
    """Whether the signature is of this body by this key, and written in small letters, as `sign` does."""
    try:
        raw = bytes.fromhex(signature)
        key.verify(raw, purpose + canonical(body))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return raw.hex() == signature


def signed(reply: Message, message: Message, layout: Layout, key: Ed25519PrivateKey) -> Message:
    """A site's reply to a job, with a signature for each of its clients that has trained."""
    job, report = Job.of(message), Report.of(reply)
    kept = report.keeping(layout.from_record(arrays_in(message.content)))
    bodies = statements(job.run, job.round, kept.answers)
    signatures = {str(client): sign(key, STATEMENT, body) for client, body in bodies.items()}
    return replace(report, signatures=signatures).reply_to(message)
