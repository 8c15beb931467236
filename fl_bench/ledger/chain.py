"""The files of a ledger: of each round a block, ROUND.json, and what came of its clients, ROUND.f32.

A block has a header, the server's signature of it, and the clients' statements with theirs. The header has the digest
of the block before, the Merkle root of the statements and the digest of the model. Block 0 has the keys, and in 0.f32
is the model from which the first round begins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import loads
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from fl_bench.errors import Damaged
from fl_bench.ledger import merkle
from fl_bench.ledger.signers import hex_of, key_of
from fl_bench.ledger.statements import BLOCK, FLOAT, STATEMENT, canonical, digest, is_signed, sign
from fl_bench.storage import files
from fl_bench.storage.folder import is_number

FOLDER = "ledger"  # in that of a run
Header = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """What a block says."""

    round: int  # where it stands
    header: Header
    signature: str  # of the header, by the server
    statements: Sequence[Mapping[str, Any]]  # {"body", "signature"}, by client
    digest: str  # of the whole block

    @property
    def leaves(self) -> list[bytes]:
        """Those of the tree whose root is in the header."""
        return [canonical(statement) for statement in self.statements]

    @property
    def updates(self) -> dict[int, str]:
        """By client, in the order of the block's file of models: the digest of what came of it."""
        bodies = [statement["body"] for statement in self.statements]
        return {body["answer"]["client"]: body["update"] for body in bodies if body["update"] is not None}


def write(
    folder: Path,
    header: Header,
    statements: Sequence[Mapping[str, Any]],
    models: Sequence[NDArray[np.float32]],
    key: Ed25519PrivateKey,
    previous: str,
) -> str:
    """Add a block to the chain, with these models [P]; `previous` is the digest of the last one. Returns its own."""
    folder.mkdir(exist_ok=True)
    files.write(folder / f"{header['round']}.f32", *(np.ascontiguousarray(model, FLOAT).data for model in models))
    root = merkle.root([canonical(statement) for statement in statements]).hex()
    header = {**header, "previous": previous, "root": root}
    block = {"header": header, "signature": sign(key, BLOCK, header), "statements": statements}
    files.write(folder / f"{header['round']}.json", content := canonical(block))
    return digest(content)


def read(folder: Path, round: int) -> Block:
    """A round's block. Raises Damaged where it is not there, or not as `write` writes."""
    file = folder / f"{round}.json"
    try:
        found = loads(content := file.read_bytes())
        if canonical(found) == content:
            return Block(round, **found, digest=digest(content))
    except FileNotFoundError:
        raise Damaged(f"block {round}: {file} is missing") from None
    except (ValueError, TypeError, RecursionError):
        pass
    raise Damaged(f"block {round}: {file} is not written as a block is")


def models(folder: Path, block: Block, size: int) -> NDArray[np.float32]:
    """What came of the clients [n, size] of `block.updates`; of block 0 the model [1, size]. Raises Damaged."""
    count, file = 1 if block.round == 0 else len(block.updates), folder / f"{block.round}.f32"
    try:
        content = np.fromfile(file, np.uint8)
    except FileNotFoundError:
        raise Damaged(f"block {block.round}: {file} is missing") from None
    if len(content) != (wanted := count * size * np.dtype(FLOAT).itemsize):
        raise Damaged(f"block {block.round}: {file} has {len(content)} bytes, and {count} models have {wanted}")
    return content.view(FLOAT).reshape(count, size)


def rounds(folder: Path) -> list[int]:
    """Those that have a block, rising."""
    found = (file.stem for file in folder.glob("*.json"))
    return sorted(int(name) for name in found if is_number(name))


def settle(folder: Path, round: int) -> None:
    """Delete the blocks after this round's."""
    for later in rounds(folder):
        if later > round:
            for kind in ("json", "f32"):
                (folder / f"{later}.{kind}").unlink(missing_ok=True)


def faults(folder: Path) -> Iterator[str]:
    """A line for everything in a ledger that is not as it was signed, block by block."""
    first: Header | None = None
    expected, previous = 0, ""
    for round in rounds(folder):
        if round > expected:
            yield f"block {expected}: {folder / f'{expected}.json'} is missing"
            previous = ""
        if round and first is None:
            return  # nobody's key is known
        try:
            block = read(folder, round)
            first = first or block.header
            yield from (f"block {round}: {what}" for what in _faults(folder, block, previous, first))
        except Damaged as error:
            yield str(error)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            yield f"block {round}: does not have what a block has: {error!r}"
        expected, previous = round + 1, digest((folder / f"{round}.json").read_bytes())


def _faults(folder: Path, block: Block, previous: str, first: Header) -> Iterator[str]:
    """What is wrong with a block that stands behind the block of this digest, by what block 0 says."""
    header, round = block.header, block.round
    owners = {client: signer for signer in first["signers"].values() for client in signer["clients"]}
    if not is_signed(key_of(first["server"]), BLOCK, header, block.signature):
        yield "its header is not what the server has signed"
    if (header["round"], header["run"]) != (round, first["run"]):
        yield f"is of round {header['round']} of run {header['run']}"
    if header["previous"] != previous:
        yield f"the block before it, {header['previous'][:16] or 'none'}, is not block {round - 1}, {previous[:16]}"
    if header["root"] != merkle.root(block.leaves).hex():
        yield "its root is not that of its statements"
    last = -1
    for statement in block.statements:
        body, client = statement["body"], statement["body"]["answer"]["client"]
        if not client > last:
            yield f"the statement of client {client} stands behind that of client {last}"
        elif client not in owners:
            yield f"client {client} has no key in block 0"
        elif not is_signed(key_of(owners[client]["key"]), STATEMENT, body, statement["signature"]):
            yield f"the statement of client {client} is not what was signed for it"
        elif (body["round"], body["run"]) != (round, first["run"]):
            yield f"the statement of client {client} is of round {body['round']} of run {body['run']}"
        last = client
    expected = {None: header["model"]} if round == 0 else block.updates
    for (client, wanted), model in zip(expected.items(), models(folder, block, size_of(first)), strict=True):
        if digest(model) != wanted:
            whose = "the first model" if client is None else f"what came of client {client}"
            yield f"{whose}, in {round}.f32, is not what was signed"


def strangers(first: Header, server: Ed25519PublicKey, signers: Mapping[str, Ed25519PublicKey]) -> Iterator[str]:
    """A line for every key in block 0 that is not the one known to be that of the server, or of a signer by name."""
    known = {name: hex_of(key) for name, key in signers.items()}
    if first["server"] != hex_of(server):
        yield "block 0: the key of the server is another"
    for name, signer in first["signers"].items():
        if known.get(name) != signer["key"]:
            yield f"block 0: the key of {name} is another"


def size_of(first: Header) -> int:
    """How many numbers a model has, by block 0."""
    return sum(prod(shape) for _, shape in first["layout"])
