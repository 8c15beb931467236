"""A small chain, byte by byte: whatever is changed in one of its files is found, and where."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import long
from cryptography.exceptions import InvalidSignature
from numpy.typing import NDArray

from fl_bench.errors import Damaged
from fl_bench.federation.exchange import Answer, Sent, Status
from fl_bench.ledger import chain
from fl_bench.ledger.chain import faults, settle
from fl_bench.ledger.signers import Signers
from fl_bench.ledger.statements import STATEMENT, canonical, digest, statements
from fl_bench.metrics import Mean

SIGNERS, RUN = Signers.of_seed(7, 2), "a" * 32
START = np.array([1, 2], np.float32)


def model(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def write(folder: Path, sent: list[list[NDArray[np.float32] | None]]) -> Path:
    """A chain of the first model and a block for each of these rounds, of what clients 0, 1, ... send."""
    opening = {**SIGNERS.to_json(), "layout": [["w", [2]]]}
    header = {"run": RUN, "model": digest(START)}
    last = chain.write(folder, {**header, "round": 0, **opening}, [], [START], SIGNERS.server, "")
    for round, models in enumerate(sent, start=1):
        answers = [
            Answer(client, Status.OK if made is not None else Status.WITHHELD, {"loss": Mean(0.5, 2)}, 2, weight=2)
            for client, made in enumerate(models)
        ]
        kept = [Answer(**{**vars(a), "sent": Sent(START, m, None)}) for a, m in zip(answers, models, strict=True)]
        bodies = statements(RUN, round, kept)
        signed = [{"body": bodies[a.client], "signature": SIGNERS.signature(bodies[a.client], a)} for a in kept]
        came = [made for made in models if made is not None]
        last = chain.write(folder, {**header, "round": round}, signed, came, SIGNERS.server, last)
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return write(tmp_path / "ledger", [[model(1, 3), model(2, 2)], [model(0, 0), None]])


def test_a_chain_as_it_was_written(ledger: Path) -> None:
    assert list(faults(ledger)) == []
    assert sorted(file.name for file in ledger.iterdir()) == ["0.f32", "0.json", "1.f32", "1.json", "2.f32", "2.json"]
    assert (ledger / "1.f32").read_bytes().hex() == "0000803f00004040" + "0000004000000040"  # 1.0, 3.0, 2.0, 2.0
    assert chain.read(ledger, 1).updates == {0: digest(model(1, 3)), 1: digest(model(2, 2))}


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=long)])
def test_every_change_of_a_byte_is_found_in_its_block(ledger: Path, step: int) -> None:
    for file in sorted(ledger.iterdir()):
        content = file.read_bytes()
        for place in range(0, len(content), step):
            for bits in (1, 32):  # another character, and a letter in the other case
                file.write_bytes(content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :])
                found = list(faults(ledger))
                assert any(line.startswith(f"block {file.stem}: ") for line in found), (file.name, place, bits, found)
        file.write_bytes(content)
    assert list(faults(ledger)) == []


def changed(block: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Change block 1 as if nobody had signed it, and write it as a block is written."""

    def change(ledger: Path) -> None:
        found = json.loads((ledger / "1.json").read_bytes())
        block(found)
        (ledger / "1.json").write_bytes(canonical(found))

    return change


DAMAGES: list[tuple[Callable[[Path], Any], list[str]]] = [
    (lambda ledger: (ledger / "1.json").unlink(), ["block 1: ", "block 2: the block before it, "]),
    (lambda ledger: (ledger / "1.f32").unlink(), ["block 1: "]),
    (lambda ledger: (ledger / "2.f32").write_bytes(bytes(16)), ["block 2: "]),
    (lambda ledger: shutil.copy(ledger / "2.json", ledger / "1.json"), [
        "block 1: is of round 2 ", "block 1: the block before it, ",
        "block 1: the statement of client 0 is of round 2 ",
        "block 1: the statement of client 1 is of round 2 ",
        "block 1: ", "block 2: the block before it, ",
    ]),
    (changed(lambda block: block["statements"].pop()), [
        "block 1: its root is not ", "block 1: ", "block 2: the block before it, ",
    ]),
    (changed(lambda block: block["statements"].reverse()), [
        "block 1: its root is not ", "block 1: the statement of client 0 stands behind that of client 1",
        "block 1: what came of client 1, in 1.f32, ", "block 1: what came of client 0, in 1.f32, ",
        "block 2: the block before it, ",
    ]),
    (changed(lambda block: block["statements"][0]["body"]["answer"].update(weight=9)), [
        "block 1: its root is not ", "block 1: the statement of client 0 is not what was signed",
        "block 2: the block before it, ",
    ]),
    (changed(lambda block: block["statements"][0]["body"]["answer"].update(client=5)), [
        "block 1: its root is not ", "block 1: client 5 has no key ",
        "block 1: the statement of client 1 stands behind that of client 5", "block 2: the block before it, ",
    ]),
    (changed(lambda block: block.update(signature=block["signature"].upper())), [
        "block 1: its header is not what the server has signed", "block 2: the block before it, ",
    ]),
    (changed(lambda block: block.update(header=[])), [
        "block 1: its header is not what the server has signed", "block 1: does not have ",
        "block 2: the block before it, ",
    ]),
    (changed(lambda block: block.update(more=1)), ["block 1: ", "block 2: the block before it, "]),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_what_is_said_of_damage(ledger: Path, damage: Callable[[Path], Any], said: list[str]) -> None:
    damage(ledger)
    found = list(faults(ledger))
    assert len(found) == len(said), found
    for line, begins in zip(found, said, strict=True):
        assert line.startswith(begins), found


def test_a_ledger_without_its_first_block_says_so_only(ledger: Path) -> None:
    (ledger / "0.json").unlink()
    (line,) = faults(ledger)
    assert line.endswith("0.json is missing")


def test_settling_leaves_what_is_up_to_a_round(ledger: Path) -> None:
    settle(ledger, 1)
    assert list(faults(ledger)) == []
    assert chain.rounds(ledger) == [0, 1]
    assert not (ledger / "2.f32").exists()
    with pytest.raises(Damaged, match=r"block 2: .* is missing"):
        chain.read(ledger, 2)


def test_a_statement_is_signed_with_the_key_of_its_client() -> None:
    answer = Answer(1, Status.OK, weight=2, sent=Sent(START, START + 1, None))
    body = statements(RUN, 3, [answer])[1]
    assert {name: body[name] for name in ("run", "round", "start", "update")} == {
        "run": RUN, "round": 3, "start": digest(START), "update": digest(START + 1),
    }  # fmt: skip
    signature = SIGNERS.signature(body, answer)
    message = STATEMENT + json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    SIGNERS.clients["1"].key.verify(bytes.fromhex(str(signature)), message)
    with pytest.raises(InvalidSignature):
        SIGNERS.clients["0"].key.verify(bytes.fromhex(str(signature)), message)


def test_keys_follow_from_the_seed_and_differ_by_client() -> None:
    again, other = Signers.of_seed(7, 3), Signers.of_seed(8, 3)
    assert {name: again.to_json()["signers"][name] for name in ("0", "1")} == SIGNERS.to_json()["signers"]
    found = [key.key.public_bytes_raw() for which in (again, other) for key in which.clients.values()]
    found += [which.server.public_key().public_bytes_raw() for which in (again, other)]
    assert len(set(found)) == 8


@pytest.mark.parametrize("signature", [None, "", "zz", "00" * 64])
def test_what_a_site_has_not_signed_is_no_signature(signature: str | None) -> None:
    """Sites have their keys: nothing is signed here for them."""
    sites = Signers(SIGNERS.server, {"a": SIGNERS.clients["0"]})
    answer = Answer(0, Status.OK, sent=Sent(START, START, signature))
    body = statements(RUN, 1, [answer])[0]
    assert sites.signature(body, answer) is None
    signed = SIGNERS.signature(body, answer)
    assert sites.signature(body, Answer(0, Status.OK, sent=Sent(START, START, signed))) == signed
    assert sites.signature({**body, "round": 2}, Answer(0, Status.OK, sent=Sent(START, START, signed))) is None


def test_keys_that_are_not_those_one_knows(ledger: Path) -> None:
    first, other = chain.read(ledger, 0).header, Signers.of_seed(8, 2)
    ours, theirs = ({name: key for name, (key, _) in which.clients.items()} for which in (SIGNERS, other))
    assert list(chain.strangers(first, SIGNERS.server.public_key(), ours)) == []
    assert list(chain.strangers(first, other.server.public_key(), {**ours, "1": theirs["1"]})) == [
        "block 0: the key of the server is another", "block 0: the key of 1 is another",
    ]  # fmt: skip
    assert list(chain.strangers(first, SIGNERS.server.public_key(), {})) == [
        "block 0: the key of 0 is another", "block 0: the key of 1 is another",
    ]  # fmt: skip
