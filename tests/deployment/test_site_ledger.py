"""A ledger of sites: each signs for its own clients with its own key, and what it does not sign counts nowhere."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import compose
from flwr.app import Message
from test_site_grid import SMALL, Line, line, made  # noqa: F401

from fl_bench.build import build
from fl_bench.deployment import keys
from fl_bench.deployment.roster import Roster
from fl_bench.engines.site_grid import Patience, SiteGrid
from fl_bench.errors import ConfigError, RunError
from fl_bench.federation.exchange import Report
from fl_bench.federation.rounds import Rounds
from fl_bench.ledger import chain
from fl_bench.ledger.signers import hex_of
from fl_bench.ledger.statements import digest, signed
from fl_bench.observers.ledger import Ledger
from fl_bench.robust.base import Rule
from fl_bench.robust.before import Mixing
from fl_bench.runs.experiment import make, make_fleet, make_strategy
from fl_bench.runs.ledger import check_ledger
from fl_bench.runs.prepare import prepare
from fl_bench.runs.recompute import ServerHalf
from fl_bench.storage.checkpoint import Store
from fl_bench.storage.states import StatesElsewhere
from fl_bench.tasks.base import Task

WORDS = (*SMALL, "num_rounds=2", "ledger=signed")


def kept(line: Line, folder: Path, words: Sequence[str] = WORDS) -> Path:  # noqa: F811
    """The ledger of a run on the sites of a line."""
    cfg = compose(*words)
    data = line.folder / "data"
    trainer, strategy, store = (
        prepare(cfg, build(cfg.task, Task), data),
        make_strategy(cfg.strategy.server),
        Store(folder, 1),
    )
    store.states = StatesElsewhere(folder / "state")
    link: Any = line
    roster = Roster(link, line.keys, data)
    grid = SiteGrid(link, roster, 3, store.states, Patience(0.2, None))
    experiment = make(cfg, strategy, trainer, data, store)
    rounds = Rounds(experiment, make_fleet(experiment, grid))
    ledger = Ledger(experiment, roster.signers())
    for round in rounds:
        ledger.see(round)
    return folder / "ledger"


def test_sites_sign_for_their_clients(line: Line, tmp_path: Path) -> None:  # noqa: F811
    folder = kept(line, tmp_path)
    assert list(chain.faults(folder)) == []
    first = chain.read(folder, 0).header
    assert first["server"] == hex_of(line.keys.key.public_key())
    assert first["signers"] == {
        name: {"key": hex_of(line.keys.sites[name]), "clients": clients}
        for name, clients in (("a", [0, 3]), ("b", [1]), ("c", [2]))
    }
    assert list(chain.strangers(first, *keys.signing(line.folder / "keys" / "driver"))) == []
    server = ServerHalf(folder)
    vector = server.first
    for round in (1, 2):
        vector = server.round(round, vector)
        assert chain.read(folder, round).header["model"] == digest(vector)


def test_a_site_that_is_away_is_silent(line: Line, tmp_path: Path) -> None:  # noqa: F811
    def before(name: str, message: Message) -> None:
        if name == "b" and line.sent.count(("b", "train")) == 2:
            line.there.pop(101, None)

    line.before = before
    folder = kept(line, tmp_path)
    assert chain.read(folder, 1).header["silent"] == []
    assert chain.read(folder, 2).header["silent"] == [{"client": 1, "status": "dropped", "why": None}]
    assert list(chain.faults(folder)) == []
    server = ServerHalf(folder)
    made_again = server.round(2, server.round(1, server.first))
    assert chain.read(folder, 2).header["model"] == digest(made_again)


@pytest.mark.parametrize("forge", [lambda own: {}, lambda own: dict.fromkeys(own, "0" * 128)])
def test_what_a_site_does_not_sign_ends_the_run(
    line: Line,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forge: Any,
) -> None:
    def unsigned(reply: Message, message: Message, *given: Any) -> Message:
        report = Report.of(signed(reply, message, *given))
        return replace(report, signatures=forge(report.signatures)).reply_to(message)

    monkeypatch.setattr("fl_bench.deployment.site.signed", unsigned)
    with pytest.raises(RunError, match=r"round 1: the site of client 0 has not signed what it sends"):
        kept(line, tmp_path)


def test_secret_noise_cannot_be_made_again() -> None:
    words = ("strategy=dp_client_fixed", "strategy.horizon=30", "ledger=signed")
    simulated = compose(*words)
    strategy = make_strategy(simulated.strategy.server)
    check_ledger(simulated, strategy, Rule(Mixing(), seed=0))
    real = compose(*words, "engine=deployment", "engine.link=127.0.0.1:1", "engine.certs=keys")
    with pytest.raises(ConfigError, match=r"strategy: on real sites the noise of its server half is secret, and of a"):
        check_ledger(real, strategy, Rule(Mixing(), seed=0))
