"""A site whose disk is full: its clients drop out of the rounds, and the run goes on."""

import errno
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from test_site_grid import Line, line, made, rounds_on  # noqa: F401  (fixtures)

from fl_bench.deployment.site import Site


def test_the_clients_of_a_site_without_room_for_a_new_greeting_have_dropped_out(
    line: Line,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is killed in round 2, and when it comes back its disk is full; in round 3 there is room again."""
    greeted, full = Site._greeted, [OSError(errno.ENOSPC, "No space left on device", "root/b")]

    def greet(self: Site, *given: Any) -> Any:
        if self.name == "b" and line.sent.count(("b", "train")) == 2 and full:
            raise full.pop()
        return greeted(self, *given)

    def kill(name: str, message: Message) -> None:
        if (name, message.metadata.message_type) == ("b", "train") and line.sent.count(("b", "train")) == 2:
            line.end("b")
            line.begin("b")

    monkeypatch.setattr(Site, "_greeted", greet)
    line.before = kill
    rounds = rounds_on(line, tmp_path, away=5)
    assert [round.clients[1]["status"] for round in rounds[1:]] == ["ok", "dropped", "ok"]
    assert "note: b is left out: cannot use root/b: No space left on device" in capsys.readouterr().err
