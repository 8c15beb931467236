"""Signatures over messages: each says who sends what to whom in which conversation, so that none can be used again.

A conversation is between the driver and one site, for one run. It begins with a greeting: the driver sends a random
number, the site answers with another, `session`. A message of the driver then bears the session and a number of its
own; the answer bears both. A site that has begun anew knows no old session, and no site obeys a number twice.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

PROOF = "proof"  # the record of a message with its signature
PURPOSE = b"fl-bench deployment 1\0"  # before what is signed: no other signature by the same key means this
Record = ArrayRecord | ConfigRecord | MetricRecord
Facts = Mapping[str, str | int]


class Unproven(Exception):
    """A message whose signature is missing or wrong, or that is of another conversation."""


def seal(content: RecordDict, key: Ed25519PrivateKey, facts: Facts) -> RecordDict:
    """The same content with a signature over it and these facts, which say what it is of."""
    unsigned = RecordDict({name: record for name, record in content.items() if name != PROOF})
    signature = key.sign(_statement(unsigned, facts))
    return RecordDict({**unsigned, PROOF: ConfigRecord({"facts": _json(facts), "signature": signature})})


def unseal(content: RecordDict, key: Ed25519PublicKey) -> tuple[RecordDict, dict[str, Any]]:
    """The content without its signature, and the facts that were signed. Raises Unproven: it is not by this key."""
    proof = content.config_records.get(PROOF)
    unsigned = RecordDict({name: record for name, record in content.items() if name != PROOF})
    try:
        facts = json.loads(str(proof["facts"]))  # type: ignore[index]
        key.verify(proof["signature"], _statement(unsigned, facts))  # type: ignore[index, arg-type]
    except InvalidSignature:
        raise Unproven("its signature is not by the key that is known here") from None
    except (TypeError, KeyError, ValueError, RecursionError):
        raise Unproven("it has no signature") from None
    return unsigned, facts


def expect(facts: Facts, **wanted: str | int) -> None:
    """Raise Unproven where a message is of something else than is expected."""
    for name, value in wanted.items():
        if facts.get(name) != value:
            raise Unproven(f"it is of another {name}")


def _statement(content: RecordDict, facts: Facts) -> bytes:
    """What is signed: the facts, and all of the content in an order and a form that do not depend on its way."""
    records = [[name, type(record).__name__, _entries(record)] for name, record in content.items()]
    return PURPOSE + _json([facts, records]).encode()


def _entries(record: Record) -> list[Any]:
    if isinstance(record, ArrayRecord):
        arrays = record.items()
        return [[name, a.dtype, list(a.shape), a.stype, hashlib.sha256(a.data).hexdigest()] for name, a in arrays]
    return [[name, value] for name, value in record.items()]


def _json(value: Any) -> str:
    """Numbers, texts and lists have one form each; bytes stand in a mapping, which no value of a record is."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, default=lambda found: {"bytes": found.hex()})
