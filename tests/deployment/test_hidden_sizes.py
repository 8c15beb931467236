"""Masks, and a driver without rows: it learns nowhere how many rows a client has, and the model stays the same."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import compose, long, table
from flwr.app import Message
from test_site_grid import NAMES, Line
from test_told import deployed, line  # noqa: F401  (a fixture)

from fl_bench.deployment import keys
from fl_bench.deployment.shares import Held
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.runs.share import share_out

BOUND = "max_examples=4096"
HIDDEN = ("secure_aggregation=masks", "evaluate.clients=false", "network=ideal", "num_rounds=2", "local.lr_horizon=2")
PARTS = ("partition=dirichlet", "partition.alpha=1", "num_clients=5")
COSTS = ("bytes_down", "bytes_up")
AWAY = ("b", "query.masks")  # a site, and the message that ends it


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without masks, of a driver that has all rows, and what its clients hold by site."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("inline", "scratch"):
        (folder / name).mkdir()
    words = ("task=mnist", "strategy=scaffold", "clients_per_round=3", "figures=false", BOUND, *PARTS, *HIDDEN[1:])
    cfg = compose(*words)
    assert execute(cfg, folder / "inline", folder / "scratch") == 0
    keys.make(folder / "keys", NAMES)
    share_out(cfg, folder / "shares", dict.fromkeys(NAMES, ()))
    return folder


def sizes(folder: Path) -> set[int]:
    """How many rows each client and each site holds, trains on and holds out."""
    found = set()
    for name in NAMES:
        held = [one[:2] for one in Held.open(folder / "shares" / name).holdings().values()]
        found |= {number for one in [*held, [*map(sum, zip(*held, strict=True))]] for number in (*one, sum(one))}
    return found


def numbers(messages: Iterable[Message]) -> set[int]:
    """All whole numbers that are written in messages, but for those of memory."""
    records = [record for message in messages for record in message.content.config_records.values()]
    texts = [re.sub(r"peak_mb\W+\d+", "", value) for r in records for value in r.values() if isinstance(value, str)]
    return {int(number) for text in texts for number in re.findall(r"(?<![\w.])\d+(?![\w.])", text)}


@pytest.fixture
def heard(line: Line, monkeypatch: pytest.MonkeyPatch) -> list[Message]:  # noqa: F811
    """All that the sites have told the driver."""
    found: list[Message] = []
    pull = line.pull_messages

    def recorded(names: Iterable[str]) -> list[Message]:
        replies = pull(names)
        found.extend(replies)
        return replies

    monkeypatch.setattr(line, "pull_messages", recorded)
    return found


def told(run: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in COSTS} for row in table(run, "metrics")]


def test_no_site_tells_how_many_rows_a_client_has(
    line: Line,  # noqa: F811
    heard: list[Message],
    whole: Path,
    tmp_path: Path,
) -> None:
    """SCAFFOLD needs to know what part of all weights a cohort has: that is a masked sum too."""
    secret = sizes(whole)
    run = deployed(line, tmp_path, *HIDDEN, BOUND, "num_clients=auto")
    about_masks = {line.sent.count((name, "query.masks")) for name in NAMES}
    assert about_masks <= {4, 4 + 3, 4 + 6}  # for what all weigh, and where it has a client of the cohort in each round
    assert not secret & numbers(heard)
    assert (run / "model.safetensors").read_bytes() == (whole / "inline" / "model.safetensors").read_bytes()
    assert told(run) == told(whole / "inline")
    _, clients = json.loads((run / "told.json").read_text())
    assert [held[:2] for held in clients.values()] == [[1, 0]] * 5
    assert not {"num_examples", "train_loss"} & table(run, "clients")[0].keys()
    assert not any((run / name).exists() for name in ("partition.csv", "split.csv.gz"))
    heard.clear()
    (tmp_path / "open").mkdir()
    deployed(line, tmp_path / "open", *HIDDEN, BOUND, "secure_aggregation=none", "num_rounds=1")
    assert secret & numbers(heard)  # so that they would have been found


@long
def test_without_a_site_nobody_knows_what_all_weigh_until_it_is_back(
    line: Line,  # noqa: F811
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line.before = lambda name, message: line.end(name) if (name, message.metadata.message_type) == AWAY else None
    deployed(line, tmp_path, *HIDDEN, BOUND, expected=1)
    assert "masks: to know what all clients weigh, all parties must answer; b did not" in capsys.readouterr().err
    line.before = lambda name, message: None
    line.begin("b")
    run = deployed(line, tmp_path, *HIDDEN, BOUND, begin=Start.RESUME)
    assert (run / "model.safetensors").read_bytes() == (whole / "inline" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "max_examples=null: only its site knows how many rows a client has; must be a number that all keep to"),
        (["max_examples=100"], " refuses: max_examples=100: client "),
        ([BOUND, "engine.packing=false"], "engine.packing=False: a site adds up its clients before it masks them"),
        (
            [BOUND, "network=heterogeneous", "local.steps=null"],
            "network.seconds_per_step=0.1: only its site knows how many rows a client has, and so its steps",
        ),
    ],
)
def test_what_needs_to_know_how_many_is_refused(
    line: Line,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    why: str,
) -> None:
    deployed(line, tmp_path, *HIDDEN, *words, expected=2)
    assert why in capsys.readouterr().err


def test_where_all_weigh_the_same_no_bound_is_needed(line: Line, tmp_path: Path) -> None:  # noqa: F811
    deployed(line, tmp_path, *HIDDEN, "weighting=uniform", "network=heterogeneous", "num_rounds=1")
    assert {line.sent.count((name, "query.masks")) for name in NAMES} == {0, 3}
