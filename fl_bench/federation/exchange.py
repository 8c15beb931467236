"""What goes to a worker and what comes back: these types, and the only JSON between the server and its workers."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from fl_bench.masking.words import Numbers
from fl_bench.metrics import Mean, Summand, merge
from fl_bench.storage.buffers import BESIDE, contents, to_record
from fl_bench.tallies import Tally

RECORD, MODELS, STATES = "fl-bench", "models", "states"  # the names of our records in a message
TOTAL = "total"  # the name of the summed update among the models of a report
NOBODY = -1  # the client of an answer about the central test set


class Status(StrEnum):
    """What became of a client, as `status` in clients.csv."""

    OK = "ok"  # has trained, and its update counts
    WITHHELD = "withheld"  # has trained, and its compression sends nothing
    EMPTY = "empty"  # has no examples to train or to be evaluated on
    FAILED = "failed"
    DROPPED = "dropped"  # does not answer in time, and so need not train
    EVALUATED = "evaluated"
    TESTED = "tested"  # a batch of the central test set
    NO_ROOM = "no room"  # on the worker's GPU: repeated with fewer workers, or failed; never written


class Trouble(IntEnum):
    """Why a message has no answer: codes of Flower's Error, far from Flower's own (1 to 8)."""

    CLIENT_FAILED = 1001  # what a strategy sees of a client without an answer
    WORKER_FAILED = 1002
    WORKER_DIED = 1003
    WORKER_OUT_OF_MEMORY = 1004
    DISK = 1005
    REFUSED = 1006  # by a site, which says why
    UNKNOWN = 1007  # to a site that has begun anew: it must be greeted again
    AWAY = 1008  # a site does not answer: its clients have dropped out


@dataclass(frozen=True)
class Job:
    """What a worker is to do with a message, beside what the strategy sends in it."""

    folder: str  # of the config and the data
    states: str  # of what clients keep
    run: str  # whose states they are
    each: bool  # whether the server needs every client's model, not only their sum
    together: int  # how many clients to train as one program
    round: int = 0
    clients: tuple[int, ...] = ()
    weight_bound: int = 1  # at least the weights of all who train in this exchange, and known to all
    batches: tuple[int, ...] = ()  # of the central test set
    masks: Mapping[str, Any] | None = None  # what parties of a masked sum are asked; see masked.py
    exchange: int = 0  # of the round; in later ones clients go on where they were
    last: bool = True  # of the round
    signed: bool = False  # whether each client's model is kept, and its owner signs it; see ledger/

    def beside(self, content: RecordDict, **work: Any) -> RecordDict:
        """The content of a message that asks for this `work`."""
        job = json.dumps(vars(self) | work)
        return RecordDict({**content, RECORD: ConfigRecord({"job": job})})

    @classmethod
    def of(cls, message: Message) -> "Job":
        fields = json.loads(str(message.content[RECORD]["job"]))
        return cls(**fields | {name: tuple(fields[name]) for name in ("clients", "batches")})


class Sent(NamedTuple):
    """What went to a client and came from it, where a ledger keeps that."""

    start: NDArray  # float32 [P]: what it was sent
    model: NDArray | None  # float32 [P], as it has arrived; None: nothing came
    signature: str | None  # of its site


@dataclass(frozen=True)
class Answer:
    """What a client says of its turn, or a worker of a batch of the test set.

    `message` is what the strategy is given for it, made by the server. Where the strategy needs only the mean of the
    models, the first client that has answered bears it for all who were sent the same content.
    """

    client: int
    status: Status
    metrics: Mapping[str, Summand] = field(default_factory=dict)
    num_examples: int = 0
    weight: int = 0  # of its model in the mean
    reply: Mapping[str, float] = field(default_factory=dict)  # numbers of the algorithm for the server half
    steps: int | None = 0  # that it took in its turn; unknown, and so 0, of one that failed; None: masked
    bytes_up: int = 0
    bytes_down: int = 0  # beside the model
    keeps: bool = False  # whether it has kept a state after this turn
    why: str | None = None  # it failed
    message: Message | None = None
    sent: Sent | None = None
    of_all: Numbers | None = None  # what all have said of their turns, where nobody knows who said what; borne likewise

    def to_json(self) -> dict[str, Any]:
        metrics = {name: _to_json(metric) for name, metric in self.metrics.items()}
        numbers = {name: getattr(self, name) for name in ("num_examples", "weight", "steps", "bytes_up", "bytes_down")}
        known = {"metrics": metrics, "reply": dict(self.reply), "keeps": self.keeps, "why": self.why}
        return {"client": self.client, "status": self.status} | numbers | known

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Answer":
        metrics = {name: _from_json(*parts) for name, parts in fields["metrics"].items()}
        return cls(**fields | {"status": Status(fields["status"]), "metrics": metrics})


@dataclass(frozen=True)
class Report:
    """A worker's reply to a message: its answers, and models [P] by client, or TOTAL for their sum of this `weight`."""

    answers: list[Answer]
    peak_mb: int  # the most memory that the worker has had
    models: Mapping[str, NDArray] = field(default_factory=dict)
    weight: int = 0
    together: int | None = None  # how many clients there was room for at once, where not for all that were wanted
    said: Mapping[str, Any] = field(default_factory=dict)  # by the parties of a masked sum; see masked.py
    beside: Mapping[int, Mapping[str, NDArray]] = field(default_factory=dict)  # arrays of any shape, by client
    signatures: Mapping[str, str] = field(default_factory=dict)  # by client, of its site; see ledger/

    def reply_to(self, message: Message) -> Message:
        names = ("peak_mb", "weight", "together", "said", "signatures")
        numbers = {name: getattr(self, name) for name in names}
        report = json.dumps(numbers | {"answers": [answer.to_json() for answer in self.answers]})
        content = RecordDict({MODELS: to_record(self.models), RECORD: ConfigRecord({"report": report})})
        if self.beside:
            content[BESIDE] = by_client(self.beside)
        return Message(content, reply_to=message)

    @classmethod
    def of(cls, message: Message) -> "Report":
        fields = json.loads(str(message.content[RECORD]["report"]))
        models = {name: contents(array) for name, array in cast(ArrayRecord, message.content[MODELS]).items()}
        answers = [Answer.from_json(answer) for answer in fields.pop("answers")]
        return cls(**fields, answers=answers, models=models, beside=of_clients(message.content))

    def keeping(self, start: NDArray) -> "Report":
        """The same, with what each client was sent, `start` [P], and has sent."""
        answers = [
            replace(a, sent=Sent(start, self.models.get(str(a.client)), self.signatures.get(str(a.client))))
            for a in self.answers
        ]
        return replace(self, answers=answers)


def beside_in(content: RecordDict) -> dict[str, NDArray]:
    """The arrays of any shape that a message has beside the model, by name."""
    record = cast(ArrayRecord, content.get(BESIDE, ArrayRecord()))
    return {name: contents(array) for name, array in record.items()}


def by_client(arrays: Mapping[int, Mapping[str, NDArray]]) -> ArrayRecord:
    """The arrays beside the model of several clients, as one record."""
    return to_record({f"{client}/{name}": array for client, its in arrays.items() for name, array in its.items()})


def of_clients(content: RecordDict) -> dict[int, dict[str, NDArray]]:
    """What `by_client` has put into a message."""
    found: dict[int, dict[str, NDArray]] = {}
    for key, array in beside_in(content).items():
        client, _, name = key.partition("/")
        found.setdefault(int(client), {})[name] = array
    return found


def joined(former: Answer, later: Answer) -> Answer:
    """What a client says of two exchanges of a round, one after the other."""
    steps = (former.steps or 0) + (later.steps or 0)
    up, down = former.bytes_up + later.bytes_up, former.bytes_down + later.bytes_down
    metrics = merge((former.metrics, later.metrics))
    return replace(later, metrics=metrics, steps=steps, bytes_up=up, bytes_down=down)


def _to_json(metric: Summand) -> list[Any]:
    """[total, count] of a mean; of a tally its cells, each with its number at last, the count and its kind."""
    if isinstance(metric, Tally):
        return [[[*cell, number] for cell, number in metric.total.items()], metric.count, metric.kind]
    assert isinstance(metric, Mean)
    return [float(metric.total), metric.count]


def _from_json(total: Any, count: int, kind: str | None = None) -> Summand:
    return Mean(total, count) if kind is None else Tally(kind, {tuple(cell): n for *cell, n in total}, count)


def settings_in(content: RecordDict) -> dict[str, Any]:
    """What the strategy sends along with a model."""
    settings: dict[str, Any] = {}
    for name, record in content.config_records.items():
        settings |= {} if name == RECORD else dict(record)
    return settings


def with_status(status: Status, answers: Iterable[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status is status]


def without_room(reports: Iterable[Report]) -> list[int]:
    """The clients that found no room on a GPU, if their last answer says so."""
    last = {answer.client: answer for report in reports for answer in report.answers}
    return [client for client, answer in last.items() if answer.status is Status.NO_ROOM]
