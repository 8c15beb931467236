"""The rule before a strategy's mean: update by update where they are added up, or at the server over all of a round."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.errors import note
from fl_bench.federation import replies
from fl_bench.federation.exchange import Answer, Status, with_status
from fl_bench.federation.parameters import Layout
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
    rule: Rule, layout: Layout, asked: Sequence[Message], answers: Sequence[Answer], round: int
) -> Sequence[Answer] | None:
    """The answers as the strategy is given them: with a rule that needs each, the first bears its update for all.

    None where the rule makes none, as too few have answered or it trusts nobody; a note says so.
    """
    answered = with_status(Status.OK, answers)
    if not answered or not rule.only_mean:
        return answers
    sent = layout.from_record(arrays_in(asked[0].content))
    if not rule.each:
        bearer = next(answer.message for answer in answered if answer.message is not None)
    elif len(answered) < rule.needed:
        note(f"round {round}: the old model stays: robust needs {rule.needed} answers and has {len(answered)}")
        return None
    elif (model := _model(rule, layout, sent, answered, round)) is None:
        note(f"round {round}: the old model stays: robust trusts none of {len(answered)} updates")
        return None
    else:
        first = answered[0].client
        numbers = replies.numbers(replies.together(answered, sum(answer.weight for answer in answered)))
        original = next(message for message in asked if message.metadata.dst_node_id == first)
        bearer = Message(RecordDict({"arrays": layout.to_record(model), "metrics": numbers}), reply_to=original)
        said = {answer.client: None for answer in answered} | {first: bearer}
        answers = [replace(a, message=said[a.client]) if a.client in said else a for a in answers]
    if rule.follows:
        rule.centre = layout.update(layout.from_record(arrays_in(bearer.content)), sent)
    return answers


def _model(rule: Rule, layout: Layout, sent: Vector, answered: Sequence[Answer], round: int) -> Vector | None:
    """The payload [P] that the rule's update leads to; what BatchNorm has counted becomes their median."""
    updates = np.empty((len(answered), np.count_nonzero(layout.moves)))
    statistics = np.empty((len(answered), layout.size - updates.shape[1]), np.float32)
    for answer, update, statistic in zip(answered, updates, statistics, strict=True):
        assert answer.message is not None
        model = layout.from_record(arrays_in(answer.message.content))
        update[:], statistic[:] = layout.update(model, sent), model[~layout.moves]
    draws = rng.generator(rule.seed, "robust", round)
    told = Told([answer.client for answer in answered], draws)
    mixed = rule.before.mix(updates, draws)
    if rule.bounds:
        mixed = np.stack([rule.bound(update, rule.centre) for update in mixed])
    made = rule.combine(mixed, told)
    if made is None:
        return None
    new = layout.updated(sent, sent, made)
    new[~layout.moves] = np.median(statistics, axis=0)
    return new
