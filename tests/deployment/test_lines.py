"""What a broken connection may have carried is asked for again: the link hands each message out once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from fl_bench.deployment import keys
from fl_bench.deployment.fleet_api import Line, Lost
from fl_bench.deployment.runtime_api import LOST, LinkGrid, RunLost
from fl_bench.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys.make(tmp_path / "keys", ["a"])
    return tmp_path


@pytest.fixture
def grid(folder: Path) -> LinkGrid:
    found = LinkGrid("127.0.0.1:1", keys.of_driver(folder / "keys" / "driver").ca, "token")
    found.set_run(Run.create_empty(7))
    return found


def error_of(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://link")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


def failing(*errors: Exception) -> Any:
    """A call that fails so, one time after the other, and then answers."""
    left = list(errors)

    def call(*_: Any) -> PullMessagesResponse:
        if left:
            raise left.pop(0)
        return PullMessagesResponse()

    return call


@pytest.mark.parametrize(("error", "lost"), [(httpx.ReadError, {"x"}), (httpx.ConnectError, set())])
def test_an_answer_that_may_have_been_lost_is_said_to_be(
    grid: LinkGrid, monkeypatch: pytest.MonkeyPatch, error: type[httpx.TransportError], lost: set[str]
) -> None:
    there: Any = SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id="y"))

    def pull(self: LinkGrid, names: Any) -> list[Any]:
        self._retry_invoker.invoke(failing(error("it broke")))
        return [there]

    monkeypatch.setattr(HttpGrid, "pull_messages", pull)
    first, *others = grid.pull_messages(["x", "y"])
    assert first is there
    assert {other.metadata.reply_to_message_id for other in others} == lost
    assert all(other.error.code in LOST for other in others)


def test_a_link_that_begins_anew_while_it_is_sent_something_has_got_nothing(
    grid: LinkGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def push(self: LinkGrid, messages: Any) -> list[str]:
        raise ObjectPushError("0" * 64, 1, "session")

    monkeypatch.setattr(HttpGrid, "push_messages", push)
    assert grid.push_messages([]) == []


def test_a_run_that_the_link_does_not_know_is_no_ctrl_c(grid: LinkGrid) -> None:
    for status in (401, 403):
        with pytest.raises(RunLost, match=r"engine.link=127.0.0.1:1: does not know this run any more"):
            grid._retry_invoker.invoke(failing(error_of(status)))
    grid._retry_invoker.invoke(failing(error_of(503)))
    with pytest.raises(httpx.HTTPStatusError):
        grid._retry_invoker.invoke(failing(error_of(500)))


def test_a_site_whose_message_may_have_been_lost_introduces_itself_again(folder: Path) -> None:
    known = keys.of_site(folder / "keys" / "sites" / "a")
    line = Line("127.0.0.1:1", known.ca, known.node, folder / "number")
    client: Any = line._client
    client.PullMessages = failing(
        httpx.ConnectError("nobody"), httpx.ConnectError("[SSL] UNEXPECTED_EOF_WHILE_READING")
    )
    assert line._next() is None
    client.PullMessages = failing(httpx.ReadTimeout("silence"))
    with pytest.raises(Lost):
        line._next()
    client.PullMessages = failing(error_of(401))
    with pytest.raises(Lost):
        line._next()
    client.PullMessages = failing(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] unknown authority"))
    with pytest.raises(ConfigError, match=r"--link 127.0.0.1:1: \[SSL: CERTIFICATE_VERIFY_FAILED\]"):
        line._next()
