"""What is sealed is opened as it was; nothing that was changed, or sealed by somebody else, is opened at all."""

import json
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fl_bench.deployment import signing
from fl_bench.deployment.signing import ARRAYS, CONTENT, ENVELOPE, HEAD, SIGNATURE, Unproven, expect, seal, unseal
from fl_bench.storage.buffers import contents, to_record

KEY = Ed25519PrivateKey.generate()
ARRAY: dict[str, Any] = {"w": np.array([[1.5, -0.0], [3.0, np.nan]], np.float32), "n": np.array(7, np.int64)}
SETTINGS: dict[str, Any] = {
    "rate": 0.1,
    "one": 1,
    "whole": 1.0,
    "yes": True,
    "name": "ü",
    "raw": b"\x00\xff",
    "many": [1, 2],
    "some": [0.5],
}


@pytest.fixture(autouse=True, params=[0, signing.SMALL])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays travel by themselves, or in the record of the head."""
    monkeypatch.setattr(signing, "SMALL", request.param)


def message() -> RecordDict:
    return RecordDict({"arrays": to_record(ARRAY), "config": ConfigRecord(SETTINGS), "m": MetricRecord({"loss": 2.5})})


def test_an_envelope_gives_back_what_was_put_in() -> None:
    content, facts = unseal(seal(message(), KEY, {"run": 2**63, "site": "a"}), KEY.public_key())
    assert list(content) == ["arrays", "config", "m"]
    assert {name: facts[name] for name in facts if name != CONTENT} == {"run": 2**63, "site": "a"}
    for name, array in content.array_records["arrays"].items():
        found = contents(array)
        assert (found.dtype, found.shape, found.tobytes()) == (
            ARRAY[name].dtype,
            ARRAY[name].shape,
            ARRAY[name].tobytes(),
        )
    assert dict(content.config_records["config"]) == SETTINGS
    kinds = {name: type(value) for name, value in content.config_records["config"].items()}
    assert kinds == {name: type(value) for name, value in SETTINGS.items()}
    assert dict(content.metric_records["m"]) == {"loss": 2.5}


def test_what_is_sent_again_is_known_by_its_content() -> None:
    other = RecordDict({**message(), "m": MetricRecord({"loss": 2.25})})
    sent = [(message(), 1), (message(), 2), (other, 1)]
    first, again, another = (unseal(seal(c, KEY, {"number": n}), KEY.public_key())[1][CONTENT] for c, n in sent)
    assert first == again != another


def changed(what: str) -> RecordDict:
    envelope = seal(message(), KEY, {"run": 1})
    signed = envelope.config_records[ENVELOPE]
    if what == "a fact":
        signed[HEAD] = str(signed[HEAD]).replace('{"run": 1}', '{"run": 2}')
    elif what == "a setting":
        signed[HEAD] = str(signed[HEAD]).replace("0.1", "0.2")
    elif what == "a byte of an array":
        if ARRAYS in signed:
            signed[ARRAYS] = b"!" + signed[ARRAYS][1:]  # type: ignore[index, operator]
        else:
            behind = contents(envelope.array_records[ARRAYS][ARRAYS]).copy()
            behind[0] ^= 1
            envelope[ARRAYS] = to_record({ARRAYS: behind})
    elif what == "the signature":
        signed[SIGNATURE] = Ed25519PrivateKey.generate().sign(str(signed[HEAD]).encode())
    elif what == "no purpose":
        signed[SIGNATURE] = KEY.sign(str(signed[HEAD]).encode())
    elif what == "no signature":
        del signed[SIGNATURE]
    elif what == "no envelope":
        del envelope[ENVELOPE]
    elif what == "no arrays":
        del (signed if ARRAYS in signed else envelope)[ARRAYS]
    return envelope


@pytest.mark.parametrize(
    "what",
    [
        "a fact",
        "a setting",
        "a byte of an array",
        "the signature",
        "no purpose",
        "no signature",
        "no envelope",
        "no arrays",
    ],
)
def test_what_was_changed_is_not_opened(what: str) -> None:
    with pytest.raises(Unproven):
        unseal(changed(what), KEY.public_key())


def test_what_a_stranger_has_signed_is_not_opened() -> None:
    with pytest.raises(Unproven, match="not by the key that is known here"):
        unseal(seal(message(), Ed25519PrivateKey.generate(), {}), KEY.public_key())


def test_arrays_that_are_not_there_are_no_crash() -> None:
    envelope = seal(message(), KEY, {})
    head = json.loads(str(envelope.config_records[ENVELOPE][HEAD]))
    for shape in ([9, 9], [-1], ["x"], None):
        head[1][0][2][0][2] = shape
        text = json.dumps(head)
        signature = KEY.sign(b"fl-bench deployment 1\0" + text.encode())
        envelope[ENVELOPE] = ConfigRecord({HEAD: text, SIGNATURE: signature})
        with pytest.raises(Unproven):
            unseal(envelope, KEY.public_key())


def test_another_conversation_is_told_apart() -> None:
    expect({"run": 1, "site": "a"}, run=1, site="a")
    with pytest.raises(Unproven, match="it is of another site"):
        expect({"run": 1, "site": "b"}, run=1, site="a")
