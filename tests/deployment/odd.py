"""The body of a site's process that at some rounds does what no site should."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import numpy as np

SLOW_SECONDS = 14
HUGE = 40_000_000  # numbers: 160 MB, where the model has 100,000 bytes or so
VERSION, NAN, SHAPE, OVERSIZED, STRANGER, TWICE, SLOW, FULL = range(8)
ALWAYS = 0  # a round that no message is of


def command(
    words: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    outputs: Sequence[Path],
    oddities: Mapping[int, int],
) -> None:
    """The command, whose site does by round what it says here when it is asked to train."""
    from importlib import import_module

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fl_bench.deployment.fleet_api import Line
    from fl_bench.federation.exchange import RECORD as ABOUT
    from fl_bench.federation.exchange import Job, Report

    module: Any = import_module("fl_bench.deployment.site")
    honest_app, honest_reply, honest_send = module.app, module.Site._reply, Line._send
    now: dict[str, Any] = {"what": None, "filling": None}

    def app(message: Any, context: Any) -> Any:
        if now["what"] == FULL:  # after what is not needed any more has been deleted
            with suppress(OSError), now["filling"].open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(2**12))
        reply = honest_app(message, context)
        if now["what"] not in (NAN, SHAPE, OVERSIZED) or reply.has_error():
            return reply
        report = Report.of(reply)
        wrong = {
            NAN: lambda a: np.full(a.shape, np.nan, np.float32),
            SHAPE: lambda a: a[:-1],
            OVERSIZED: lambda a: np.zeros(HUGE, np.float32),
        }[now["what"]]
        return replace(report, models={name: wrong(model) for name, model in report.models.items()}).reply_to(message)

    def reply(self: Any, message: Any, kind: str, content: Any, facts: Any) -> Any:
        now["what"], now["filling"] = None, self._root / "filling"
        now["filling"].unlink(missing_ok=True)
        if message.metadata.message_type == "train" and ABOUT in content:
            message.content, sealed = content, message.content
            now["what"] = oddities.get(Job.of(message).round)
            message.content = sealed
        if now["what"] == SLOW:
            time.sleep(SLOW_SECONDS)
        keys = self._keys
        if now["what"] == STRANGER:
            self._keys = replace(keys, key=Ed25519PrivateKey.generate())
        try:
            return honest_reply(self, message, kind, content, facts)
        finally:
            self._keys = keys

    def send(self: Any, reply: Any, seconds: float) -> None:
        honest_send(self, reply, seconds)
        if now["what"] == TWICE:
            reply.metadata.__dict__["_created_at"] += 0.001  # another message in the link's eyes
            honest_send(self, reply, seconds)

    module.app, module.Site._reply = app, reply
    Line._send = send  # type: ignore[method-assign]
    if oddities.get(ALWAYS) == VERSION:
        welcome: Any = import_module("fl_bench.deployment.welcome")
        welcome.package = lambda: ("9.9.9 of somebody", "")
    forks.command(words, cwd, environment, outputs)
