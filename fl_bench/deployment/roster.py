"""The sites as the driver knows them: who is there, what each holds, and the conversations with them."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from fl_bench.attacks.base import Attack
from fl_bench.config.paths import INIT
from fl_bench.data.drift import Drift
from fl_bench.deployment.conversation import Conversation, Facts
from fl_bench.deployment.keys import DriverKeys
from fl_bench.deployment.runtime_api import LOST, LinkGrid
from fl_bench.deployment.shares import Held
from fl_bench.deployment.signing import Unproven
from fl_bench.deployment.site import GREETING
from fl_bench.deployment.told import Told
from fl_bench.deployment.welcome import Welcome
from fl_bench.errors import ConfigError, RunError, note
from fl_bench.federation.collect import collect
from fl_bench.federation.exchange import Trouble
from fl_bench.federation.local import Trainer, trainer_in
from fl_bench.federation.parts import CONFIG
from fl_bench.ledger.signers import Signer, Signers
from fl_bench.storage.buffers import to_record
from fl_bench.strategies.base import LocalAlgorithm

POLL_SECONDS, LOOK_SECONDS = 0.05, 1.0  # from one question to the link to the next: for answers, for who is there
GREETING_SECONDS = 60  # for a site that is there to open its data and make the model


@dataclass
class Site:
    """A site as it is known here."""

    talk: Conversation
    node: int = 0  # its number at the link
    since: str | None = None  # when it came there; None: it is away
    greeted: str | None = None  # when the one came with whom the conversation is
    welcome: Welcome | None = None

    @property
    def ready(self) -> bool:
        """Whether it is there, and has been greeted since it came."""
        return self.since is not None and self.since == self.greeted and self.talk.session is not None


class Roster:
    """The sites whose keys the driver has, for the run of which the prepared data is in `data`, or will be: before
    that, there is only its config, and what the model begins from.
    """

    def __init__(self, line: LinkGrid, keys: DriverKeys, data: Path) -> None:
        self._line, self._keys, self._data = line, keys, data
        self._ours: Welcome | None = None  # what is here, as soon as it is known
        self._asked: list[Site] = []
        self.size = 0  # of what travels
        run = line.run.run_id
        self._known = {name: Site(Conversation(name, run, keys.key, key)) for name, key in keys.sites.items()}
        self._looked = float("-inf")

    def ask(self, wanted: int, seconds: float) -> Told:
        """What the sites say of their rows, once so many are there: before the data is prepared, which then follows it.

        Raises ConfigError or RunError where they do not fit together, or do not come.
        """
        self._asked = self._wait_for(wanted, seconds)
        return Told.by(self._welcomes(self._asked, seconds))

    def gather(self, wanted: int, seconds: float) -> list[Site]:
        """The sites that are there, once they are so many, each of which holds what it should, and all together all.

        Raises ConfigError or RunError where it is not so.
        """
        trainer, told = trainer_in(self._data), Told.open(self._data)
        _refuse_unfit(trainer)
        self.size = trainer.layout.size
        self._num_clients = trainer.num_clients
        ours = Welcome.of(trainer, {} if told else Held.open(self._data).holdings())
        self._ours = replace(ours, form=told.form, clients=told.clients) if told else ours
        there = self._asked or self._wait_for(wanted, seconds)
        for name, welcome in self._welcomes(there, seconds).items():
            self._refuse_others(name, welcome)  # who was asked before the data was prepared
            for oddity in welcome.oddities(self._ours):
                note(f"{name}: the last bits may be others than on one machine: {oddity}")
        return there

    def owners(self, sites: Sequence[Site]) -> NDArray[np.int64]:
        """By client: the place of its site among these, -1 where it holds nothing.

        Raises ConfigError where a client has two, or none and should have one.
        """
        owners = np.full(self._num_clients, -1)
        for place, site in enumerate(sites):
            for client in site.welcome.clients if site.welcome else ():
                if owners[client] >= 0:
                    raise ConfigError(
                        f"{site.talk.name}: has client {client}, as {sites[int(owners[client])].talk.name} has"
                    )
                owners[client] = place
        assert self._ours is not None
        if lacking := [client for client in sorted(self._ours.clients) if owners[client] < 0]:
            raise ConfigError(f"engine.sites: no site that is there has client {', '.join(map(str, lacking[:10]))}")
        return owners

    def signers(self) -> Signers:
        """Who signs in a ledger: each site that takes part, for its clients."""
        welcomes = {name: site.welcome for name, site in self._known.items() if site.welcome is not None}
        sites = {name: Signer(self._keys.sites[name], sorted(found.clients)) for name, found in welcomes.items()}
        return Signers(self._keys.key, sites)

    def look(self, at_once: bool = False) -> None:
        """Ask the link, now and then, who is there, and since when."""
        if time.monotonic() - self._looked < LOOK_SECONDS and not at_once:
            return
        there = {info.public_key: info for info in self._line.present()}
        for key, name in self._keys.nodes.items():
            info, site = there.get(key), self._known[name]
            site.since = info.last_activated_at if info else None
            site.node = info.node_id if info else site.node
        self._looked = time.monotonic()

    def greet(self, sites: Iterable[Site]) -> dict[str, str]:
        """Begin the conversations with these sites anew. Those that go away meanwhile stay without one.

        So do those that cannot use their disk: by name, what they say of it. Raises ConfigError where one refuses
        the run, or does not hold what it should.
        """
        unready: dict[str, str] = {}
        pending: dict[str, tuple[Site, Facts, str | None]] = {}
        for site in sites:
            message, facts = site.talk.greeting(self._greeting(), site.node)
            pending |= dict.fromkeys(self._line.push_messages([message]), (site, facts, site.since))
        for reply in collect(self._line, pending, GREETING_SECONDS):
            site, facts, since = pending[reply.metadata.reply_to_message_id]
            if reply.has_error() and reply.error.code in LOST:
                continue
            name = site.talk.name
            if reply.has_error() and reply.error.code == Trouble.DISK:
                unready[name] = str(reply.error.reason)
                continue
            if reply.has_error():
                raise ConfigError(f"{name} {reply.error.reason}")
            try:
                found = site.talk.welcome(reply, facts)
            except Unproven as error:
                raise RunError(f"{name}: is not who it says: {error}") from error
            self._refuse_others(name, found)
            if site.welcome is not None and found.clients != site.welcome.clients:
                raise RunError(f"{name}: has come back with other clients")
            site.welcome, site.greeted = found, since
        return unready

    def _greeting(self) -> RecordDict:
        content = RecordDict({GREETING: ConfigRecord({"config": (self._data / CONFIG).read_text()})})
        if (self._data / INIT).exists():
            content[INIT] = to_record({INIT: np.fromfile(self._data / INIT, np.uint8)})
        return content

    def _welcomes(self, sites: Sequence[Site], seconds: float) -> dict[str, Welcome]:
        """What each of these sites says of itself, by its name. Some may be killed just now, and come back."""
        deadline = time.monotonic() + seconds
        while silent := [site for site in sites if site.welcome is None]:
            if unready := self.greet(site for site in silent if site.since is not None):
                raise RunError(": ".join(next(iter(unready.items()))))
            if time.monotonic() > deadline and silent[0].welcome is None:
                raise RunError(f"{silent[0].talk.name}: was there, and does not answer")
            time.sleep(POLL_SECONDS)
            self.look()
        return {site.talk.name: site.welcome for site in sites if site.welcome is not None}

    def _refuse_others(self, name: str, welcome: Welcome) -> None:
        """Raise ConfigError where a site does not fit what is here, as far as that is known yet."""
        if self._ours is not None and (why := next(welcome.differences(self._ours), None)):
            raise ConfigError(f"{name}: {why}")

    def _wait_for(self, wanted: int, seconds: float) -> list[Site]:
        """The sites that are there, once they are so many."""
        deadline, told = time.monotonic() + seconds, False
        while True:
            self.look()
            there = [site for site in self._known.values() if site.since is not None]
            if len(there) >= wanted:
                return there
            names = ", ".join(site.talk.name for site in there) or "none"
            if time.monotonic() > deadline:
                raise RunError(f"engine.sites={wanted}: after {seconds} s only these are there: {names}")
            if not told:
                note(f"waiting for {wanted} sites; there are: {names}")
                told = True
            time.sleep(POLL_SECONDS)


def _refuse_unfit(trainer: Trainer) -> None:
    """Raise ConfigError for what needs more than a client's own rows."""
    if type(trainer.drift) is not Drift:
        raise ConfigError("data_drift: needs the numbers of all rows, which sites do not have; use data_drift=none")
    if type(trainer.attack) is not Attack:
        raise ConfigError("attack: is of clients of a simulation; the sites of a deployment are real, use attack=none")
    if type(trainer.algorithm).rows is not LocalAlgorithm.rows:
        raise ConfigError("strategy: its clients train on rows of others, which stay at their sites")
