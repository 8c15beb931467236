"""The driver's half of a conversation with a site; `site.py` has the other."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fl_bench.deployment.signing import Unproven, expect, seal, unseal
from fl_bench.deployment.site import ANSWER, GREETING, KEPT, SETTLE, WELCOME, WORK
from fl_bench.deployment.welcome import Welcome

Facts = Mapping[str, Any]


@dataclass
class Conversation:
    """With the site `name`, about the run with this number at the link, by the keys of the driver and of the site."""

    name: str
    run: int
    key: Ed25519PrivateKey
    theirs: Ed25519PublicKey
    session: str | None = None  # None: the site must be greeted
    sent: int = 0

    def greeting(self, content: RecordDict, node: int) -> tuple[Message, Facts]:
        """What begins the conversation anew, and what the answer must be of."""
        return self._signed(GREETING, content, node, MessageType.QUERY, secrets.token_hex(16))

    def work(self, content: RecordDict, node: int, type: str, kept: Mapping[str, Any]) -> tuple[Message, Facts]:
        """What asks for a job, with what the site is to keep."""
        return self._next(WORK, content, node, type, kept)

    def settle(self, node: int, kept: Mapping[str, Any]) -> tuple[Message, Facts]:
        """What asks for nothing else than to keep what is needed."""
        return self._next(SETTLE, RecordDict(), node, MessageType.QUERY, kept)

    def welcome(self, reply: Message, facts: Facts) -> Welcome:
        """What the site says of itself; from now on messages are of the session that it names. Raises Unproven."""
        content = self.answer(reply, facts, WELCOME)
        try:
            found = Welcome.from_json(str(content.config_records[WELCOME][WELCOME]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Unproven(f"it says of itself what cannot be read: {error}") from error
        self.session, self.sent = found.session, 0
        return found

    def answer(self, reply: Message, facts: Facts, kind: str = ANSWER) -> RecordDict:
        """The content of an answer to the message of these facts. Raises Unproven."""
        content, signed = unseal(reply.content, self.theirs)
        expect(signed, **{**facts, "kind": kind})
        return content

    def _next(
        self, kind: str, content: RecordDict, node: int, type: str, kept: Mapping[str, Any]
    ) -> tuple[Message, Facts]:
        assert self.session is not None
        self.sent += 1
        content = RecordDict({**content, KEPT: ConfigRecord({KEPT: json.dumps(kept)})})
        return self._signed(kind, content, node, type, self.session)

    def _signed(self, kind: str, content: RecordDict, node: int, type: str, session: str) -> tuple[Message, Facts]:
        facts = {"run": self.run, "site": self.name, "session": session, "number": self.sent}
        sealed = seal(content, self.key, {**facts, "kind": kind, "type": type})
        return Message(sealed, node, type), facts
