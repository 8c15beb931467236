"""What a strategy is given for what clients, or all of them together, have said."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flwr.app import Message, MetricRecord

from fl_bench.federation.exchange import TOTAL, Answer, Report, Status
from fl_bench.federation.loads import Same, same
from fl_bench.federation.update import ExactMean, Update
from fl_bench.masking.words import Numbers
from fl_bench.metrics import Mean, merge


def by_content(answered: Sequence[Answer], originals: Mapping[int, Message]) -> dict[Same, list[Answer]]:
    """The answers of those who were sent the same, as `same` says; `originals` are the messages by client."""
    groups: dict[Same, list[Answer]] = {}
    for answer in answered:
        groups.setdefault(same(originals[answer.client].content), []).append(answer)
    return groups


def summed(mean: ExactMean, report: Report) -> Report:
    """A report of each client's model with their sum instead, as its worker would have made it."""
    weights = {str(answer.client): answer.weight for answer in report.answers}
    total: Update | None = None
    for client, model in report.models.items():
        total = mean.add(total, Update(model, weights[client]))
    return report if total is None else replace(report, models={TOTAL: total.values}, weight=total.weight)


def together(answered: Sequence[Answer], weight: int) -> Answer:
    """One answer for all: their metrics merged, and the means of their replies by weight."""
    replies = merge({k: Mean(v * a.weight, a.weight) for k, v in a.reply.items()} for a in answered)
    return replace(
        answered[0],
        weight=weight,
        metrics=merge(answer.metrics for answer in answered),
        reply={name: mean.value for name, mean in replies.items()},
    )


def of_all(client: int, numbers: Numbers) -> Answer:
    """The same where the numbers have come as sums."""
    reply = {name: mean.value for name, mean in numbers.reply.items()}
    return Answer(client, Status.OK, numbers.metrics, weight=numbers.weight, reply=reply)


def numbers(answer: Answer) -> MetricRecord:
    """What Flower's strategies want to know of an answer beside the model."""
    values = {name: mean.value for name, mean in answer.metrics.items() if "/" not in name}
    if answer.status is Status.EVALUATED and answer.metrics:
        return MetricRecord({"num-examples": answer.metrics["loss"].count, **values})
    trained = {f"train_{name}": value for name, value in values.items()}
    return MetricRecord({"num-examples": answer.weight, **trained, **answer.reply})
