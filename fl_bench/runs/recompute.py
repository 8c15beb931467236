"""The models of a run made again, without its clients and data, from what its ledger has kept of the updates."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Message
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fl_bench.attacks.base import Attack
from fl_bench.build import build
from fl_bench.config.changes import apart, flat, shown
from fl_bench.config.paths import MODEL
from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.errors import Damaged
from fl_bench.federation import flower_log, replies
from fl_bench.federation.exchange import Answer, Job, Report, Status
from fl_bench.federation.fleet import Fleet
from fl_bench.federation.loads import Loads
from fl_bench.federation.parameters import Layout
from fl_bench.federation.rounds import Experiment, Rounds
from fl_bench.federation.update import ExactMean
from fl_bench.ledger import chain
from fl_bench.ledger.statements import digest
from fl_bench.network.schedule import Plan
from fl_bench.robust.base import Rule
from fl_bench.runs.experiment import make_strategy
from fl_bench.runs.topology import make_topology
from fl_bench.storage import run_json
from fl_bench.storage.buffers import arrays_in


class Kept(InlineGrid):
    """A Grid, and a schedule, of rounds that were: its one node answers for all clients, as the ledger has it."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        super().__init__()
        self.folder, self.layout = folder, layout

    def __deepcopy__(self, memo: Any) -> "Kept":
        """Itself: it keeps nothing from one round to the next."""
        return self

    def open(self, round: int, without: int | None = None) -> None:
        """Go to a round; where it is to be one `without` this client, it drops out."""
        self.block = block = chain.read(self.folder, round)
        models = zip(block.updates, chain.models(self.folder, block, self.layout.size), strict=True)
        self.models = {str(client): model for client, model in models}
        bodies = [statement["body"] for statement in block.statements]
        self.starts = {body["answer"]["client"]: body["start"] for body in bodies}
        silent = (Answer(said["client"], Status(said["status"]), why=said["why"]) for said in block.header["silent"])
        answers = [*(Answer.from_json(body["answer"]) for body in bodies), *silent]
        self.answers = {answer.client: answer for answer in answers if answer.client != without}

    def plan(self, round: int) -> Plan:
        header = self.block.header
        return Plan(round, header["asked"], header["dropping"], told=dict(header["told"]))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._reply(self._pushed.pop(message_id)) for message_id in self.order(message_ids)]

    def _reply(self, message: Message) -> Message:
        """Raises Damaged where a client has signed that it was sent another model."""
        job, start = Job.of(message), self.layout.from_record(arrays_in(message.content))
        answers = [self.answers[client] for client in job.clients if client in self.answers]
        sent = digest(start)
        for client in (answer.client for answer in answers):
            if self.starts.get(client, sent) != sent:
                raise Damaged(f"block {job.round}: client {client} began with another model than the server has sent")
        names = {str(answer.client) for answer in answers} & self.models.keys()
        report = Report(answers, 0, {name: self.models[name] for name in names})
        return (report if job.each else replies.summed(ExactMean(start, job.weight_bound), report)).reply_to(message)


class ServerHalf:
    """The server of a run once more, as block 0 of the ledger in `folder` says what it was. Raises Damaged."""

    def __init__(self, folder: Path) -> None:
        flower_log.quieten()
        first = chain.read(folder, 0)
        run_json.check_config(folder / "0.json", first.header["config"])
        cfg: Any = OmegaConf.create(first.header["config"])
        self.layout = Layout({name: tuple(shape) for name, shape in first.header["layout"]})
        self.first = chain.models(folder, first, self.layout.size)[0]
        self.kept = kept = Kept(folder, self.layout)
        most, owners = first.header["weights"]["most"], first.header["signers"].values()
        weights = np.array(first.header["weights"]["each"])
        rule = build(cfg.robust, Rule, seed=cfg.seed)
        known: Any = SimpleNamespace(
            layout=self.layout, rule=rule, weighting=SimpleNamespace(all=int(weights.sum()), each=weights)
        )
        topology = make_topology(cfg, known)
        schedule: Any = kept
        states: Any = None  # its clients keep theirs
        strategy = topology.strategy(make_strategy(cfg.strategy.server))
        experiment = Experiment(cfg, folder, folder, strategy, known, schedule, states, topology)
        last = max(client for owner in owners for client in owner["clients"])
        loads = Loads(most, np.ones(last + 1, np.int64))
        job = Job("", "", first.header["run"], cfg.strategy.needs_each_client, together=1)
        self.rounds = Rounds(experiment, Fleet(kept, job, self.layout, loads, True, Attack(cfg.seed, 0, 0), rule))

    def round(self, number: int, vector: Any, without: int | None = None) -> Any:
        """The model [P] of a round that began with `vector` [P]."""
        self.kept.open(number, without)
        messages, plan = self.rounds.configure_train(number, vector)
        answers = self.rounds.fleet.exchange(messages, plan)
        record, _ = self.rounds.aggregate(plan, messages, answers)
        return vector if record is None else self.layout.from_record(record)


def faults(run: Path) -> Iterator[str]:
    """A line for the first model that is not what the server makes of the updates, or for what else does not fit.

    The ledger in the folder of the run must be as it was signed.
    """
    folder = run / chain.FOLDER
    server = ServerHalf(folder)
    vector = server.first
    for round in chain.rounds(folder)[1:]:
        try:
            vector = server.round(round, vector)
        except Damaged as error:
            yield str(error)
            return
        if digest(vector) != server.kept.block.header["model"]:
            yield f"block {round}: its model is not what the server makes of the updates"
            return
    yield from _beside(run, chain.read(folder, 0).header, chain.rounds(folder)[-1], server.layout.split(vector))


def _beside(run: Path, first: chain.Header, round: int, model: Mapping[str, Any]) -> Iterator[str]:
    """What of the run's other files is not what its ledger says: its config, its last round and its model."""
    record = run_json.read_run(run)
    now, then = flat(record["config"]), flat(first["config"])
    for key, (ours, theirs) in apart(then, {key: now.get(key, ...) for key in then}).items():
        yield f"run.json: {key} is {shown(theirs)}, and in block 0 {shown(ours)}"
    if record["status"] != "done":
        return
    if record["final"]["round"] != round:
        yield f"run.json: the last round is {record['final']['round']}, and the last block {round}"
    try:
        found = load_file(run / MODEL)
    except (OSError, SafetensorError) as error:
        yield f"{MODEL}: is missing or damaged: {error}"
        return
    for name, tensor in found.items():
        if name in model and tensor.tobytes() != model[name].tobytes():
            yield f"{MODEL}: {name} is not that of block {round}"
