"""The Grid of a deployment: its nodes are sites, each of which has clients of its own.

Here the sites have numbers of their own, whatever those at the link are. A message waits while its site is away, and is
sent again where the site has begun anew before it has answered: it trains from the states of the round before, so that
nothing changes by it. A site that stays away for too long is given up for this message.
"""

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.typing import NDArray

from fl_bench.config.paths import INIT
from fl_bench.data.drift import Drift
from fl_bench.deployment.conversation import Conversation, Facts
from fl_bench.deployment.keys import DriverKeys
from fl_bench.deployment.runtime_api import LinkGrid
from fl_bench.deployment.shares import Held
from fl_bench.deployment.signing import Unproven
from fl_bench.deployment.site import GREETING, travelling
from fl_bench.deployment.welcome import Welcome
from fl_bench.errors import ConfigError, RunError, note
from fl_bench.federation.client import app
from fl_bench.federation.exchange import RECORD, Job, Trouble
from fl_bench.federation.fleet import Homes, collect
from fl_bench.federation.local import CONFIG, Trainer, trainer_in
from fl_bench.storage.states import StatesElsewhere
from fl_bench.strategies.base import LocalAlgorithm

HERE = 0  # the node of the server itself, which has the test set
POLL_SECONDS, LOOK_SECONDS = 0.02, 0.5  # between two questions to the link: for answers, for who is there
GREETING_SECONDS, SETTLE_SECONDS = 60, 10  # for a site that is there to open its data, to tidy up
TRIES = 3  # to send a message that the link loses
LOST = (  # codes of the link's own errors: the site is not there, or its answer is not
    ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
)  # fmt: skip


@dataclass(frozen=True)
class Patience:
    """Seconds that a message waits."""

    away: float  # while its site is away
    round: float | None  # in all; None: as long as its site is there


@dataclass
class Site:
    """A site as it is known here."""

    talk: Conversation
    node: int = 0  # its number at the link
    since: str | None = None  # when it came there; None: it is away
    greeted: str | None = None  # when the one came that is in the conversation
    welcome: Welcome | None = None


@dataclass
class Waiting:
    """A message without an answer yet."""

    message: Message
    site: Site
    begun: float = field(default_factory=time.monotonic)
    away: float | None = None  # since when its site is away
    name: str | None = None  # at the link; None: it is to be sent, or sent again
    since: str | None = None  # of the site that it was sent to
    facts: Facts = field(default_factory=dict)
    tries: int = 0


class SiteGrid(Grid):
    """A Grid over the sites that the driver's `keys` know; `states` is the register of what their clients keep."""

    def __init__(self, line: LinkGrid, keys: DriverKeys, states: StatesElsewhere, patience: Patience) -> None:
        self._line, self._keys, self._states, self._patience = line, keys, states, patience
        run = line.run.run_id
        self._known = {name: Site(Conversation(name, run, keys.key, key)) for name, key in keys.sites.items()}
        self._sites: dict[int, Site] = {}  # by node here: those that are in this run
        self._waiting: dict[str, Waiting] = {}
        self._here: dict[str, Message] = {}
        self._plain: dict[int, tuple[ArrayRecord, RecordDict]] = {}  # of this exchange, arrays that can travel
        self._looked = float("-inf")

    def gather(self, wanted: int, data: Path) -> None:
        """Wait for so many sites, and see that each holds what the prepared `data` say, and together all of it.

        Raises ConfigError or RunError where it is not so.
        """
        trainer, held = trainer_in(data), Held.open(data)
        _refuse_unfit(trainer)
        self._greeting = RecordDict({GREETING: ConfigRecord({"config": (data / CONFIG).read_text()})})
        if (data / INIT).exists():
            self._greeting[INIT] = ArrayRecord({INIT: Array(np.fromfile(data / INIT, np.uint8))})
        self._ours = Welcome.of(trainer, held.holdings())
        self._size = trainer.layout.size
        present = self._wait_for(wanted)
        self._greet(present)
        for site in present:
            assert site.welcome is not None
            for oddity in site.welcome.oddities(self._ours):
                note(f"{site.talk.name}: the last bits may be others than on one machine: {oddity}")
        self._sites = dict(enumerate(present, start=HERE + 1))
        self.homes = Homes(self._owners(held.num_clients), HERE)

    def settle(self) -> None:
        """Let the sites keep nothing but what is still needed of this run."""
        asked = []
        for site in self._sites.values():
            if site.since is not None and site.since == site.greeted and site.welcome is not None:
                message, _ = site.talk.settle(site.node, self._kept(site.welcome.clients))
                asked += self._line.push_messages([message])
        collect(self._line, asked, SETTLE_SECONDS)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        if not self._waiting:  # what travelled in the last exchange may have changed
            self._plain.clear()
        names = []
        for message in messages:
            name = str(uuid.uuid4())
            message.metadata.__dict__["_message_id"] = name  # as Flower's own grids do
            if message.metadata.dst_node_id == HERE:
                self._here[name] = message
            else:
                self._waiting[name] = Waiting(message, self._sites[message.metadata.dst_node_id])
            names.append(name)
        self._tend(self._waiting.values())
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Those of the answers that are there. What is asked of the server itself is done now."""
        wanted = list(message_ids)
        context = Context(self.run.run_id, HERE, {}, RecordDict(), {})
        found = [app(self._here.pop(name), context) for name in wanted if name in self._here]
        waiting = {name: self._waiting[name] for name in wanted if name in self._waiting}
        self._tend(waiting.values())
        sent = {item.name: name for name, item in waiting.items() if item.name is not None}
        for reply in self._line.pull_messages(list(sent)) if sent else ():
            name = sent[reply.metadata.reply_to_message_id]
            if (answer := self._answer(waiting[name], reply)) is not None:
                found.append(answer)
                del self._waiting[name], waiting[name]
        for name, item in waiting.items():
            if why := self._too_late(item):
                found.append(_given_up(item, why))
                del self._waiting[name]
        if not found:
            time.sleep(POLL_SECONDS)
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return collect(self, self.push_messages(messages), timeout)

    def set_run(self, run: Run) -> None:
        """The line has it."""

    @property
    def run(self) -> Run:
        return self._line.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def _tend(self, waiting: Iterable[Waiting]) -> None:
        """Send what is to be sent to sites that are there, after a greeting where one is due."""
        items = list(waiting)
        if items:
            self._look()
        for item in items:
            site = item.site
            if item.name is not None and site.since not in (None, item.since):  # it has begun anew since
                item.name = None
            item.away = None if site.since is not None else item.away or time.monotonic()
        due = [item for item in items if item.name is None and item.site.since is not None]
        strangers = {id(i.site): i.site for i in due if i.site.since != i.site.greeted or i.site.talk.session is None}
        if strangers:
            self._greet(list(strangers.values()))
        for item in due:
            if item.site.since == item.site.greeted:
                self._send(item)

    def _send(self, item: Waiting) -> None:
        """Send a message as it may travel: a site knows its own folders."""
        message, site = item.message, item.site
        job = Job.of(message)
        content = job.beside(self._travelling(message.content), folder="", states="")
        signed, item.facts = site.talk.work(content, site.node, message.metadata.message_type, self._kept(job.clients))
        (item.name,) = self._line.push_messages([signed]) or (None,)
        item.since, item.tries = site.since, item.tries + 1

    def _answer(self, item: Waiting, reply: Message) -> Message | None:
        """What the fleet is given for a reply; None where the message is to be sent again."""
        site = item.site
        if not reply.has_error():
            try:
                return Message(site.talk.answer(reply, item.facts), reply_to=item.message)
            except Unproven as error:
                why = f"at {site.talk.name} has sent what is not its own: {error}"
                return Message(Error(Trouble.REFUSED, why), reply_to=item.message)
        code, why = reply.error.code, str(reply.error.reason)
        if code == Trouble.DISK:
            return _given_up(item, why)
        if code == Trouble.UNKNOWN:
            site.talk.session = None
        if code in (*LOST, Trouble.UNKNOWN):
            item.name = None
            return _given_up(item, why) if item.tries > TRIES else None
        return Message(Error(code, f"at {site.talk.name} {why}"), reply_to=item.message)

    def _too_late(self, item: Waiting) -> str:
        """Why a message waits no longer; empty where it does."""
        now = time.monotonic()
        if item.away is not None and now - item.away > self._patience.away:
            return f"it has been away for {self._patience.away} s"
        if self._patience.round is not None and now - item.begun > self._patience.round:
            return f"it has not answered in {self._patience.round} s"
        return ""

    def _look(self) -> None:
        """Ask the link, now and then, who is there, and since when."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        there = {info.public_key: info for info in self._line.present()}
        for key, name in self._keys.nodes.items():
            info, site = there.get(key), self._known[name]
            site.since = info.last_activated_at if info else None
            site.node = info.node_id if info else site.node
        self._looked = time.monotonic()

    def _wait_for(self, wanted: int) -> list[Site]:
        """The sites that are there, once they are so many."""
        deadline, told = time.monotonic() + self._patience.away, False
        while True:
            self._look()
            there = [site for site in self._known.values() if site.since is not None]
            if len(there) >= wanted:
                return there
            names = ", ".join(site.talk.name for site in there) or "none"
            if time.monotonic() > deadline:
                raise RunError(f"engine.sites={wanted}: after {self._patience.away} s only these are there: {names}")
            if not told:
                note(f"waiting for {wanted} sites; there are: {names}")
                told = True
            time.sleep(POLL_SECONDS)

    def _greet(self, sites: Sequence[Site]) -> None:
        """Begin the conversations with these sites anew. Those that go away meanwhile stay without one.

        Raises ConfigError where one refuses the run, or does not hold what it should.
        """
        pending: dict[str, tuple[Site, Facts, str | None]] = {}
        for site in sites:
            message, facts = site.talk.greeting(self._greeting, site.node)
            (name,) = self._line.push_messages([message])
            pending[name] = site, facts, site.since
        for reply in collect(self._line, pending, GREETING_SECONDS):
            site, facts, since = pending.pop(reply.metadata.reply_to_message_id)
            name = site.talk.name
            if reply.has_error():
                if reply.error.code in LOST:
                    continue
                raise ConfigError(f"{name} {reply.error.reason}")
            try:
                found = site.talk.welcome(reply, facts)
            except Unproven as error:
                raise RunError(f"{name}: is not who it says: {error}") from error
            if why := next(found.differences(self._ours), None):
                raise ConfigError(f"{name}: {why}")
            if site.welcome is not None and found.clients != site.welcome.clients:
                raise RunError(f"{name}: has come back with other clients")
            site.welcome, site.greeted = found, since

    def _owners(self, num_clients: int) -> NDArray[np.int64]:
        """By client: the place of its site."""
        owners = np.full(num_clients, -1)
        for place, site in enumerate(self._sites.values()):
            if site.welcome is None:
                raise RunError(f"{site.talk.name}: is there, and does not answer")
            for client in site.welcome.clients:
                if owners[client] != -1:
                    other = list(self._sites.values())[owners[client]].talk.name
                    raise ConfigError(f"{site.talk.name}: has client {client}, which {other} has too")
                owners[client] = place
        if lacking := sorted(client for client in self._ours.clients if owners[client] == -1):
            named = ", ".join(map(str, lacking[:10])) + (", ..." if len(lacking) > 10 else "")
            raise ConfigError(f"engine.sites: no site that is there has client {named}")
        return np.maximum(owners, 0)  # who holds nothing can be asked anywhere

    def _kept(self, clients: Iterable[int]) -> Mapping[str, Any]:
        return {"folder": self._states.place, "rounds": {c: self._states.needed(c) for c in clients}}

    def _travelling(self, content: RecordDict) -> RecordDict:
        """The records of a message, arrays made so that they can travel: once for all the messages of an exchange."""
        made = RecordDict()
        for name, record in content.items():
            if isinstance(record, ArrayRecord):
                if id(record) not in self._plain:
                    self._plain[id(record)] = (record, travelling(RecordDict({name: record})))
                made[name] = next(iter(self._plain[id(record)][1].values()))
            elif name != RECORD:
                made[name] = record
        return made


def _given_up(item: Waiting, why: str) -> Message:
    note(f"{item.site.talk.name} is left out: {why}")
    return Message(Error(Trouble.AWAY, why), reply_to=item.message)


def _refuse_unfit(trainer: Trainer) -> None:
    """Raise ConfigError for what needs more than a client's own rows."""
    if type(trainer.drift) is not Drift:
        raise ConfigError("data_drift: needs the numbers of all rows, which sites do not have; use data_drift=none")
    if type(trainer.algorithm).rows is not LocalAlgorithm.rows:
        raise ConfigError("strategy: its clients train on rows of others, which stay at their sites")
