"""What travels is a sealed envelope: it says who sends what to whom in which conversation, so that none serves twice.

A conversation is between the driver and one site, for one run. It begins with a greeting: the driver sends a random
number, the site answers with another, `session`. A message of the driver then bears the session and a number of its
own; the answer bears both. A site that has begun anew knows no old session, and no site obeys a number twice.

An envelope has a head, in JSON: these facts, all records but arrays, the arrays' names, types and shapes, and the
SHA-256 of their bytes, which lie behind each other in one array. What is signed are the bytes of the head as they
travel. One array, because the link takes requests for each, and is asked for each by every site; a small one is in the
record of the head, which saves half of all requests.
"""

import hashlib
import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fl_bench.storage.buffers import contents, to_record

ENVELOPE, HEAD, SIGNATURE, ARRAYS, BYTES = "envelope", "head", "signature", "arrays", "bytes"
CONTENT = "content"  # a fact of what was unsealed: a digest of what came with the facts
SMALL = 2**20  # bytes of an array that is in the record of the head
PURPOSE = b"fl-bench deployment 1\0"  # before what is signed: no other signature by the same key means this
KINDS = {kind.__name__: kind for kind in (ConfigRecord, MetricRecord)}
Facts = Mapping[str, Any]


class Unproven(Exception):
    """A message that is not signed by who should have sent it, or that is of another conversation."""


def seal(content: RecordDict, key: Ed25519PrivateKey, facts: Facts) -> RecordDict:
    """An envelope with this content, of which the facts are said."""
    records: list[Any] = []
    pieces: list[NDArray] = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays = {entry: contents(array) for entry, array in record.items()}
            records.append([name, ARRAYS, [[entry, array.dtype.str, array.shape] for entry, array in arrays.items()]])
            pieces += arrays.values()
        else:
            records.append([name, type(record).__name__, list(record.items())])
    behind = b"".join(piece.tobytes() for piece in pieces)
    head = json.dumps([facts, records, hashlib.sha256(behind).hexdigest()], default=_to_json)
    signed = ConfigRecord({HEAD: head, SIGNATURE: key.sign(PURPOSE + head.encode())})
    if len(behind) <= SMALL:
        signed[ARRAYS] = behind
        return RecordDict({ENVELOPE: signed})
    return RecordDict({ENVELOPE: signed, ARRAYS: ArrayRecord({ARRAYS: Array(np.frombuffer(behind, np.uint8))})})


def unseal(envelope: RecordDict, key: Ed25519PublicKey) -> tuple[RecordDict, dict[str, Any]]:
    """What is in an envelope, and the facts, with a digest of all the rest as `content`.

    Raises Unproven where it is not signed by this key.
    """
    try:
        signed = envelope.config_records[ENVELOPE]
        head, signature = str(signed[HEAD]), signed[SIGNATURE]
        key.verify(signature, PURPOSE + head.encode())  # type: ignore[arg-type]
        facts, records, digest = json.loads(head, object_hook=_from_json)
        if ARRAYS in signed:
            behind = np.frombuffer(bytearray(signed[ARRAYS]), np.uint8)  # type: ignore[arg-type]
        else:
            behind = np.ascontiguousarray(envelope.array_records[ARRAYS][ARRAYS].numpy())
        if hashlib.sha256(behind.data).hexdigest() != digest:
            raise Unproven("its arrays are not those that were signed")
        rest = json.dumps([records, digest], default=_to_json)
        return _opened(records, behind), {**facts, CONTENT: hashlib.sha256(rest.encode()).hexdigest()}
    except InvalidSignature:
        raise Unproven("its signature is not by the key that is known here") from None
    except (KeyError, TypeError, ValueError) as error:
        raise Unproven(f"it is no signed envelope: {error}") from error


def _opened(records: list[Any], behind: NDArray[np.uint8]) -> RecordDict:
    content, start = RecordDict(), 0
    for name, kind, entries in records:
        if kind != ARRAYS:
            content[name] = KINDS[kind](dict(entries))
            continue
        arrays = {}
        for entry, dtype, shape in entries:
            end = start + prod(shape) * np.dtype(dtype).itemsize
            arrays[entry] = behind[start:end].view(dtype).reshape(shape)
            start = end
        content[name] = to_record(arrays)
    return content


def expect(facts: Facts, **wanted: Any) -> None:
    """Raise Unproven where a message is of something else than is expected."""
    for name, value in wanted.items():
        if facts.get(name) != value:
            raise Unproven(f"it is of another {name}")


def _to_json(value: bytes) -> dict[str, str]:
    return {BYTES: value.hex()}


def _from_json(found: dict[str, Any]) -> Any:
    return bytes.fromhex(found[BYTES]) if found.keys() == {BYTES} else found
