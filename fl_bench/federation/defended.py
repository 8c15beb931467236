"""The rule before a strategy's mean: update by update where they are added up, or at the server over all of a round."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.errors import RunError, note
from fl_bench.federation import replies
from fl_bench.federation.exchange import Answer, Status, beside_in, settings_in, with_status
from fl_bench.federation.local import Trainer
from fl_bench.federation.parameters import Layout
from fl_bench.federation.update import Diverged
from fl_bench.robust.base import Floats, Rule, Told
from fl_bench.storage.buffers import arrays_in, contents, to_record

CENTRE = "centre"  # the name of our record in what clients are sent
Vector = NDArray[np.float32]


def tell(rule: Rule, messages: Sequence[Message]) -> None:
    """Put what the rule's `bound` wants to know beside what a strategy sends."""
    if rule.centre is not None and not rule.each:
        for content in {id(message.content): message.content for message in messages}.values():
            content[CENTRE] = to_record({CENTRE: rule.centre})


def centre_in(content: RecordDict) -> Floats | None:
    """What `tell` has put there."""
    return contents(content.array_records[CENTRE][CENTRE]) if CENTRE in content else None


def bounded(rule: Rule, layout: Layout, sent: Vector, arrived: Vector, centre: Floats | None) -> Vector:
    """What counts of the payload [P] that has arrived of a client, unless that is seen once all are there."""
    if rule.each or not rule.bounds:
        return arrived
    update = layout.update(arrived, sent)
    made = rule.bound(update, centre)
    return arrived if made is update else layout.updated(arrived, sent, made)


def combined(
    trainer: Trainer, strategy: Strategy, asked: Sequence[Message], answers: Sequence[Answer], round: int
) -> Sequence[Answer] | None:
    """The answers as the strategy is given them: with a rule that needs each, the first bears its update for all.

    None where the rule makes none, as too few have answered or it trusts nobody; a note says so. A strategy that
    divides updates says so in `divisors`, by client: the rule sees them divided. Raises RunError where the rule wants
    an update of the server's own, and that diverges.
    """
    rule, layout, answered = trainer.rule, trainer.layout, with_status(Status.OK, answers)
    if not answered or not rule.only_mean:
        return answers
    if not rule.each:
        bearer = next(answer.message for answer in answered if answer.message is not None)
        sent, mean = (layout.from_record(arrays_in(message.content)) for message in (asked[0], bearer))
        rule.centre = layout.update(mean, sent)
        return answers
    if len(answered) < rule.needed:
        note(f"round {round}: the old model stays: robust needs {rule.needed} answers and has {len(answered)}")
        return None
    originals = {message.metadata.dst_node_id: message for message in asked}
    divisors: Mapping[int, float] = getattr(strategy, "divisors", {})
    update, statistics = _combined(trainer, originals, divisors, answered, round)
    if update is None:
        note(f"round {round}: the old model stays: robust trusts none of {len(answered)} updates")
        return None
    if rule.follows:
        rule.centre = update
    first = answered[0].client
    sent = layout.from_record(arrays_in(originals[first].content))
    model = layout.updated(sent, sent, update * divisors.get(first, 1))
    model[~layout.moves] = statistics
    numbers = replies.numbers(replies.together(answered, sum(answer.weight for answer in answered)))
    bearer = Message(RecordDict({"arrays": layout.to_record(model), "metrics": numbers}), reply_to=originals[first])
    said = {answer.client: None for answer in answered} | {first: bearer}
    return [replace(answer, message=said.get(answer.client, answer.message)) for answer in answers]


def _combined(
    trainer: Trainer, asked: Mapping[int, Message], divisors: Mapping[int, float], answers: Sequence[Answer], round: int
) -> tuple[Floats | None, Vector]:
    """The rule's update [N], and the median of what BatchNorm has counted at the clients [P - N]."""
    rule, layout = trainer.rule, trainer.layout
    contents_sent = {id(message.content): message.content for message in asked.values()}
    starts = {key: layout.from_record(arrays_in(content)) for key, content in contents_sent.items()}
    updates = np.empty((len(answers), np.count_nonzero(layout.moves)))
    statistics = np.empty((len(answers), layout.size - updates.shape[1]), np.float32)
    for answer, update, statistic in zip(answers, updates, statistics, strict=True):
        assert answer.message is not None
        start = starts[id(asked[answer.client].content)]
        model = layout.from_record(arrays_in(answer.message.content))
        update[:] = layout.update(model, start) / divisors.get(answer.client, 1)
        statistic[:] = model[~layout.moves]
    draws = rng.generator(rule.seed, "robust", round)
    own = _own(trainer, asked[answers[0].client], round) if rule.root_size else None
    mixed = rule.before.mix(updates, draws)
    if rule.bounds:
        mixed = np.stack([rule.bound(update, rule.centre) for update in mixed])
    made = rule.combine(mixed, Told([answer.client for answer in answers], draws, own))
    return made, np.median(statistics, axis=0)


def _own(trainer: Trainer, message: Message, round: int) -> Floats:
    """The update [N] that the server makes of its root set, as if it had been sent this message."""
    sent, settings = trainer.layout.from_record(arrays_in(message.content)), settings_in(message.content)
    beside = beside_in(message.content)
    try:
        trained = trainer.train(trainer.num_clients, round, sent, settings, trainer.rule.state, beside)
    except Diverged as error:
        raise RunError(f"round {round}: the server's own turn, on its root set: {error}") from error
    trainer.rule.state = trained.state
    return trainer.layout.update(trained.payload, sent)
