"""The virtual clients behind a few workers: who configures, sends to or hears from clients does it through here.

The fleet packs a strategy's messages by worker (heaviest client first), sends one message a worker, takes the reports
apart, and puts the answers in the order of the clients. They depend neither on the number of workers nor on who was
first.
"""

import heapq
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fl_bench.attacks.base import Attack
from fl_bench.errors import RunError, StorageError, WorkerDied, note
from fl_bench.federation import attacked, replies
from fl_bench.federation.collect import collect
from fl_bench.federation.exchange import TOTAL, Answer, Job, Report, Status, Trouble, with_status, without_room
from fl_bench.federation.loads import Homes, Loads, Pack, Same, same
from fl_bench.federation.masked import TRAIN, MaskedRound, Said
from fl_bench.federation.parameters import Layout
from fl_bench.federation.update import ExactMean, Update
from fl_bench.metrics import Summand, merge
from fl_bench.network.schedule import Plan
from fl_bench.robust.base import Rule
from fl_bench.storage.buffers import BESIDE, arrays_in, to_record

MASKS = f"{MessageType.QUERY}.masks"  # asks parties of a masked sum
ANSWERED = (Status.OK, Status.EVALUATED)
Vector = NDArray[np.float32]


class Fleet:
    """The clients of one experiment behind the nodes of Flower's `grid`; `job` is what all of their work shares."""

    def __init__(
        self,
        grid: Grid,
        job: Job,
        layout: Layout,
        loads: Loads,
        packing: bool,
        attack: Attack,
        rule: Rule,
        homes: Homes | None = None,
        masks: bool = False,
    ) -> None:
        self.grid = grid
        self.layout = layout
        self.loads = loads
        self.homes = homes  # None: every node can take every client's turn
        self.masks = masks  # whether nobody can read what a worker sends, but only the sum of all
        self.attack, self.rule = attack, rule
        self.packing = packing  # one message a worker, not one a client
        self.worker_peak_mb = 0  # the most memory that any worker has had
        self._job = job
        self._each = job.each or rule.each  # whether a model of each client is needed, by the strategy or the rule
        self._nodes = list(grid.get_node_ids())
        self._placed: dict[int, int] = {}  # the worker that knows the turn of each client in this round

    def exchange(self, messages: Iterable[Message], plan: Plan, number: int = 0, last: bool = True) -> list[Answer]:
        """Give clients these messages of a strategy, and return the answers of all of them, by client.

        It may be one of several exchanges of the plan's round; the first has the `number` 0. Raises RunError where the
        round cannot go on: a worker failed or died, or the disk of one.
        """
        by_client = {message.metadata.dst_node_id: message for message in messages}
        answering = sorted(by_client.keys() - plan.dropping)
        bound = max(1, len(answering) * self.loads.most)
        self._placed = self._placed if number else {}
        colluding = last and attacked.colludes(self.attack, answering, plan.round)
        job = replace(self._job, round=plan.round, exchange=number, last=last)
        job = replace(job, weight_bound=bound, each=self._each or colluding or job.signed)
        nothing = set() if self.homes is None else {k for k in by_client if self.homes.owners[k] < 0}
        empty = {client: Answer(client, Status.EMPTY) for client in answering if client in nothing}
        answering = [client for client in answering if client not in nothing]
        asked = sorted(by_client.keys() - nothing)
        masked = self._masked(asked, job) if self.masks and asked else None
        if masked is not None:
            answering = [client for client in answering if masked.has(client)]
            job = replace(job, masks=masked.wish(TRAIN) if answering else None)
        found = self._ask([by_client[client] for client in answering], job)
        while self.homes is None and len(self._nodes) > 1 and (crowded := without_room(r for _, r in found)):
            self._use_fewer_nodes(plan.round)
            found += self._ask([by_client[client] for client in crowded], job)
        if colluding:
            found = attacked.collude(self.attack, found, self.layout, self.rule)
        if self._job.signed:
            found = [(pack, report.keeping(pack.mean.start)) for pack, report in found]
        if job.each and not self._each:
            found = [(pack, replies.summed(pack.mean, report)) for pack, report in found]
        answers = empty | self._merge(found, by_client, masked)
        return [answers.get(client, Answer(client, Status.DROPPED)) for client in sorted(by_client)]

    def weigh(self) -> int:
        """What all clients with a home weigh together, as no home says it of its own. Raises RunError."""
        assert self.homes is not None
        return self._masked(np.flatnonzero(self.homes.owners >= 0).tolist(), self._job).weigh()

    def test(self, round: int, payload: Vector, batches: Sequence[int]) -> dict[str, Summand]:
        """The metrics of a model on these batches of the server's own rows, which the workers share."""
        content = RecordDict({"arrays": self.layout.to_record(payload)})
        nodes = self._nodes if self.homes is None else [self.homes.tester]
        job, count = replace(self._job, round=round), len(nodes)
        shares = {node: tuple(batches[index::count]) for index, node in enumerate(nodes)}
        messages = [
            Message(job.beside(content, batches=share), node, MessageType.QUERY)
            for node, share in shares.items()
            if share
        ]
        replies = collect(self.grid, self.grid.push_messages(messages))
        answers = [answer for reply in replies for answer in self._report(reply, "the test set", round).answers]
        if crowded := with_status(Status.NO_ROOM, answers):
            if count == 1:
                raise RunError(f"round {round}: testing the model: {crowded[0].why}")
            self._use_fewer_nodes(round)
            return self.test(round, payload, batches)
        return merge(answer.metrics for answer in answers)

    def _ask(self, messages: Sequence[Message], job: Job) -> list[tuple[Pack, Report]]:
        """Send each client its message, and return what the workers report."""
        packs: dict[str, Pack] = {}
        for pack in self._pack(messages, job.weight_bound):
            first = pack.messages[0]
            clients = tuple(message.metadata.dst_node_id for message in pack.messages)
            masks = {**job.masks, "parties": self._parties(clients)} if job.masks is not None else None
            message = Message(
                job.beside(pack.content, clients=clients, together=self._job.together, masks=masks),
                self._nodes[pack.worker],
                first.metadata.message_type,
            )
            (message_id,) = self.grid.push_messages([message])
            packs[message_id] = pack
        if (self.masks or self.rule.only_mean) and not self._job.each:
            starts = list({id(pack.mean): pack.mean.start for pack in packs.values()}.values())
            if any((start != starts[0]).any() for start in starts[1:]):
                why = "and robust and secure_aggregation make one update of all"
                raise RunError(f"the strategy sends clients different models, {why}")
        found = []
        for reply in collect(self.grid, packs):
            pack = packs[reply.metadata.reply_to_message_id]
            if reply.has_error() and reply.error.code == Trouble.AWAY:
                continue
            names = ", ".join(str(message.metadata.dst_node_id) for message in pack.messages)
            report = self._report(reply, f"clients {names}", job.round)
            if report.together is not None and report.together < self._job.together:
                self._job = replace(self._job, together=report.together)
                note(f"out of GPU memory: from now on a worker trains {report.together} clients at once")
            found.append((pack, report))
        return found

    def _pack(self, messages: Sequence[Message], weight_bound: int) -> list[Pack]:
        """Split the messages over the workers: the heaviest client goes first, to the worker with the least to do.
        A client that has a home goes there.

        Only messages with the very same records can share one of ours; what is beside the model may differ.
        """
        means: dict[Same, ExactMean] = {}  # usually all messages share one
        keys = [same(message.content) for message in messages]
        for key, message in zip(keys, messages, strict=True):
            if key not in means:
                means[key] = ExactMean(self.layout.from_record(arrays_in(message.content)), weight_bound)
        clients = [message.metadata.dst_node_id for message in messages]
        if not self._placed.keys() >= set(clients):
            self._placed |= zip(clients, self._workers(clients), strict=True)
        workers = [self._placed[client] for client in clients]
        if not self.packing:
            return [Pack(w, [message], means[key]) for message, w, key in zip(messages, workers, keys, strict=True)]
        packs: dict[tuple[Same, int], Pack] = {}
        placed = zip(messages, workers, keys, strict=True)
        for message, worker, key in sorted(placed, key=lambda one: -self.loads.steps[one[0].metadata.dst_node_id]):
            packs.setdefault((key, worker), Pack(worker, [], means[key])).messages.append(message)
        return list(packs.values())

    def _workers(self, clients: Sequence[int]) -> list[int]:
        """The worker that takes the turn of each of these clients."""
        if self.homes is not None:
            return [int(self.homes.owners[client]) for client in clients]
        if not self.packing:
            return [k % len(self._nodes) for k in range(len(clients))]
        loads = [(0, worker) for worker in range(len(self._nodes))]
        found: dict[int, int] = {}
        for client in sorted(clients, key=lambda client: -self.loads.steps[client]):
            load, found[client] = heapq.heappop(loads)
            heapq.heappush(loads, (load + self.loads.steps[client], found[client]))
        return [found[client] for client in clients]

    def _parties(self, clients: Iterable[int]) -> dict[str, list[int]]:
        """Those of a masked sum in which these clients are: each itself, or its site."""
        parties: dict[str, list[int]] = {}
        for client in clients:
            name = str(client) if self.homes is None else self.homes.names[int(self.homes.owners[client])]
            parties.setdefault(name, []).append(client)
        return parties

    def _masked(self, clients: Sequence[int], job: Job) -> MaskedRound:
        """The parties of these clients, once they have agreed on a masked sum."""
        parties = self._parties(clients)
        workers = {name: self._workers(held)[0] for name, held in parties.items()}

        def ask(wish: Mapping[str, Any], own: Said) -> Said:
            asked = []
            for worker in sorted({workers[name] for name in own}):
                its = {name: parties[name] for name in own if workers[name] == worker}
                clients = tuple(client for held in its.values() for client in held)
                told = {**wish, "parties": its, "own": {name: own[name] for name in its}}
                asked.append(Message(job.beside(RecordDict(), clients=clients, masks=told), self._nodes[worker], MASKS))
            replies = collect(self.grid, self.grid.push_messages(asked))
            there = [r for r in replies if not (r.has_error() and r.error.code == Trouble.AWAY)]
            return {k: v for reply in there for k, v in self._report(reply, "the masks", job.round).said.items()}

        return MaskedRound(ask, parties)

    def _merge(
        self, found: Sequence[tuple[Pack, Report]], originals: Mapping[int, Message], masked: MaskedRound | None
    ) -> dict[int, Answer]:
        """The answers by client, with the messages that the strategy is given for them."""
        answers: dict[int, Answer] = {}  # of a client that has been repeated, the later one
        models: dict[int, Vector] = {}
        beside: dict[int, Mapping[str, NDArray]] = {}
        totals: dict[Same, tuple[ExactMean, Update]] = {}  # by what was sent; masks have one sum
        for pack, report in found:
            answers |= {answer.client: answer for answer in report.answers}
            beside |= report.beside
            for name, values in report.models.items():
                if name == TOTAL:
                    key = same(pack.messages[0].content) if masked is None else ()
                    _, before = totals.get(key, (pack.mean, None))
                    totals[key] = pack.mean, pack.mean.add(before, Update(values, report.weight))
                else:
                    models[int(name)] = values
        for client, answer in answers.items():
            if answer.status is Status.NO_ROOM:
                answer = replace(answer, status=Status.FAILED)
            if answer.why is not None:
                failed = Message(Error(Trouble.CLIENT_FAILED, answer.why), reply_to=originals[client])
                answer = replace(answer, message=failed)
            answers[client] = answer
        answered = [answers[client] for client in sorted(answers) if answers[client].status in ANSWERED]
        if totals and beside:
            why = "its clients send arrays beside the model: its yaml must say needs_each_client: true"
            raise RunError(f"strategy: {why}")
        told: dict[int, Answer] = {}
        if masked is not None:
            said = [report.said for _, report in found]
            opened = masked.open(totals[()][1].values, said, self.layout.size) if totals else None
            answers = masked.costs(answers)
            if opened is not None:
                first, (update, numbers) = answered[0].client, opened
                models[first], told[first] = totals[()][0].mean(update), replies.of_all(first, numbers)
                answers[first] = replace(answers[first], of_all=numbers)
        elif totals:
            for key, group in replies.by_content(answered, originals).items():
                first, (mean, total) = group[0].client, totals[key]
                models[first], told[first] = mean.mean(total), replies.together(group, total.weight)
        else:
            told = {answer.client: answer for answer in answered}
        for client, answer in told.items():
            arrays = {"arrays": self.layout.to_record(models[client])} if client in models else {}
            arrays |= {BESIDE: to_record(beside[client])} if client in beside else {}
            message = Message(RecordDict({**arrays, "metrics": replies.numbers(answer)}), reply_to=originals[client])
            answers[client] = replace(answers[client], message=message)
        return answers

    def _report(self, reply: Message, work: str, round: int) -> Report:
        """What a worker says of its work; raises what says why it says nothing."""
        if reply.has_error():
            reason = textwrap.shorten(str(reply.error.reason), 300, placeholder=" ...")
            if reply.error.code == Trouble.DISK:
                raise StorageError(f"round {round}: {reason}")
            text = f"round {round}: the worker of {work} {reason}"
            if reply.error.code in (Trouble.WORKER_DIED, Trouble.WORKER_OUT_OF_MEMORY):
                raise WorkerDied(text, out_of_memory=reply.error.code == Trouble.WORKER_OUT_OF_MEMORY)
            raise RunError(text)
        report = Report.of(reply)
        self.worker_peak_mb = max(self.worker_peak_mb, report.peak_mb)
        return report

    def _use_fewer_nodes(self, round: int) -> None:
        """From now on only half of the workers train; the others leave their GPU memory to them."""
        used, left = self._nodes[::2], self._nodes[1::2]  # of each GPU some: Ray fills one after the other
        self._nodes, self._placed = used, {}
        asked = self.grid.push_messages(Message(RecordDict(), node, MessageType.QUERY) for node in left)
        collect(self.grid, asked)
        note(f"round {round}: out of GPU memory: {len(used)} of the workers go on, and repeat who found no room")
