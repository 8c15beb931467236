"""The Grid of a deployment: its nodes are sites, each of which has clients of its own.

Here the sites have numbers of their own, whatever those at the link are. A message waits while its site is away, and is
sent again where the site has begun anew before it has answered: it trains from the states of the round before, so that
nothing changes by it. A site that stays away for too long is given up for this message.
"""

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fl_bench.deployment.conversation import Facts
from fl_bench.deployment.roster import POLL_SECONDS, Roster, Site
from fl_bench.deployment.runtime_api import LOST, LinkGrid
from fl_bench.deployment.signing import Unproven
from fl_bench.errors import note
from fl_bench.federation.client import app
from fl_bench.federation.collect import collect
from fl_bench.federation.exchange import TOTAL, Job, Report, Trouble
from fl_bench.federation.loads import Homes
from fl_bench.federation.masked import TRAIN
from fl_bench.masking.words import Numbers
from fl_bench.storage.states import StatesElsewhere

HERE = 0  # the node of the server itself, which has the test set
SETTLE_SECONDS = 60  # for the sites to delete what nobody needs any more; a stock node starts a process for it
TRIES = 3  # to send a message that the link loses
SHARE, LONGEST_SECONDS = 0.05, 0.5  # of the time that is waited already, until the link is asked again; at most


@dataclass(frozen=True)
class Patience:
    """Seconds that a message waits."""

    away: float  # while its site is away
    round: float | None  # in all; None: as long as its site is there


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
    trouble: str = ""  # why its site cannot be greeted: it cannot use its disk


class SiteGrid(Grid):
    """A Grid over those sites of a roster that are there; `states` is the register of what their clients keep."""

    def __init__(
        self, line: LinkGrid, roster: Roster, wanted: int, states: StatesElsewhere, patience: Patience
    ) -> None:
        """Raises ConfigError or RunError where fewer than the `wanted` come, or one does not fit the run."""
        self._line, self._roster, self._states, self._patience = line, roster, states, patience
        sites = roster.gather(wanted, patience.away)
        self.homes = Homes(roster.owners(sites), HERE, [site.talk.name for site in sites])
        self._sites = dict(enumerate(sites, start=HERE + 1))
        self._waiting: dict[str, Waiting] = {}
        self._here: dict[str, Message] = {}

    def settle(self) -> None:
        """Let the sites keep nothing but what is still needed of this run."""
        if self._states.aside:
            return
        asked = list[str]()
        for site in self._sites.values():
            if site.ready and site.welcome is not None:
                message, _ = site.talk.settle(site.node, self._kept(site.welcome.clients))
                asked += self._line.push_messages([message])
        collect(self._line, asked, SETTLE_SECONDS)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
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
            waited = time.monotonic() - min((item.begun for item in waiting.values()), default=time.monotonic())
            time.sleep(min(LONGEST_SECONDS, max(POLL_SECONDS, waited * SHARE)))
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
            self._roster.look()
        for item in items:
            if item.name is not None and item.site.since not in (None, item.since):  # it has begun anew since
                item.name = None
            item.away = None if item.site.since is not None else item.away or time.monotonic()
        due = [item for item in items if item.name is None and item.site.since is not None]
        unready = self._roster.greet({id(item.site): item.site for item in due if not item.site.ready}.values())
        for item in due:
            item.trouble = unready.get(item.site.talk.name, "")
            if item.site.ready:
                self._send(item)

    def _send(self, item: Waiting) -> None:
        """Send a message without the server's folders: a site knows its own."""
        job, site = Job.of(item.message), item.site
        content = job.beside(item.message.content, folder="", states="")
        kept = self._kept(() if _agrees(job) else job.clients)  # they agree also while a new state is not needed yet
        signed, item.facts = site.talk.work(content, site.node, item.message.metadata.message_type, kept)
        item.name = next(iter(self._line.push_messages([signed])), None)
        item.since, item.tries = site.since, item.tries + 1

    def _answer(self, item: Waiting, reply: Message) -> Message | None:
        """What the fleet is given for a reply; None where the message is to be sent again."""
        site = item.site
        if not reply.has_error():
            try:
                answer = Message(site.talk.answer(reply, item.facts), reply_to=item.message)
                why = _wrong(answer, Job.of(item.message), self._roster.size)
            except Unproven as error:
                why = str(error)
            return _given_up(item, f"its answer is refused: {why}") if why else answer
        code, why = reply.error.code, str(reply.error.reason)
        if code == Trouble.DISK:
            return _given_up(item, why)
        if code == Trouble.UNKNOWN:
            site.talk.session = None
        if code in (*LOST, Trouble.UNKNOWN):
            item.name = None
            self._roster.look(at_once=True)  # else it is sent, and lost, again before anybody knows that it is away
            return _given_up(item, why) if item.tries > TRIES else None
        return Message(Error(code, f"at {site.talk.name} {why}"), reply_to=item.message)

    def _too_late(self, item: Waiting) -> str:
        """Why a message waits no longer; empty where it does."""
        now = time.monotonic()
        if item.trouble:
            return item.trouble
        if item.away is not None and now - item.away > self._patience.away:
            return f"it has been away for {self._patience.away} s"
        if self._patience.round is not None and now - item.begun > self._patience.round:
            return f"it has not answered in {self._patience.round} s"
        return ""

    def _kept(self, clients: Iterable[int]) -> Mapping[str, Any]:
        needed = {client: self._states.needed(client) for client in clients}
        return {"folder": self._states.place, "rounds": needed, "aside": self._states.aside}


def _agrees(job: Job) -> bool:
    """Whether parties of a masked sum only tell each other something, and nobody trains."""
    return job.masks is not None and job.masks["ask"] != TRAIN


def _wrong(answer: Message, job: Job, size: int) -> str:
    """What is wrong with a site's report on a job, with models of this `size`; empty where it may count."""
    try:
        report = Report.of(answer)
        asked = set() if _agrees(job) else set(job.clients)
        wrong = [
            ("it is on clients that were not asked", {a.client for a in report.answers} != asked),
            ("it has room for no client", report.together is not None and report.together < 1),
            *(_of_models(report, job, size) if job.masks is None else _of_masks(report, job.masks, size)),
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"it cannot be read: {error!r}"
    return next((text for text, is_so in wrong if is_so), "")


def _of_models(report: Report, job: Job, size: int) -> list[tuple[str, bool]]:
    models, known = report.models.values(), {TOTAL, *map(str, job.clients)}
    numbers = [report.weight, *(a.weight for a in report.answers)]
    beside = [array for arrays in report.beside.values() for array in arrays.values()]
    return [
        ("it has a model of a client that was not asked", not report.models.keys() <= known),
        ("a model has another shape", any(model.shape != (size,) for model in models)),
        ("a model is of other numbers", any(model.dtype not in (np.int64, np.float32) for model in models)),
        ("a model is not of finite numbers", any(not np.isfinite(model).all() for model in models)),
        ("it has arrays of a client that was not asked", not report.beside.keys() <= set(job.clients)),
        ("an array beside a model is not of finite numbers", any(not np.isfinite(array).all() for array in beside)),
        ("a weight is more than all", any(not 0 <= number <= job.weight_bound for number in numbers)),
    ]


def _of_masks(report: Report, masks: Mapping[str, Any], size: int) -> list[tuple[str, bool]]:
    """Of a masked sum, whose words could be any."""
    named = set(report.said["survivors"] if masks["ask"] == TRAIN else report.said)
    words = [size + Numbers.count(report.said["names"])] if masks["ask"] == TRAIN and named else []
    models = report.models.values()
    return [
        ("it is of another party's masks", not named <= masks["parties"].keys()),
        ("it has more than one sum", not report.models.keys() <= {TOTAL}),
        ("a model has another shape", [model.shape for model in models] != [(count,) for count in words]),
        ("a model is of other numbers", any(model.dtype != np.int64 for model in models)),
    ]


def _given_up(item: Waiting, why: str) -> Message:
    note(f"{item.site.talk.name} is left out: {why}")
    return Message(Error(Trouble.AWAY, why), reply_to=item.message)
