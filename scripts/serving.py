"""A server half at work, without a run: what it makes of some clients' models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import ArrayLike, NDArray

from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.federation.cohort import Cohort
from fl_bench.network.schedule import Plan
from fl_bench.runs.experiment import all_there
from fl_bench.strategies.server import ALL_WEIGHTS

Model = dict[str, NDArray]  # by tensor name


def serve(
    server: Strategy,
    sent: Mapping[str, ArrayLike],
    models: Sequence[Mapping[str, ArrayLike]],
    weights: Sequence[int] = (),
    metrics: Sequence[Mapping[str, float]] = (),
    all_weights: int | None = None,
    round: int = 1,
    failed: int = 0,
) -> tuple[Model, dict[str, Any]] | None:
    """The new model and the metrics of a round in which so many clients fail; None where there is no new model."""
    InlineGrid()  # gives messages the identity that they must bear
    weights = weights or [1] * len(models)
    told = ConfigRecord({ALL_WEIGHTS: sum(weights) if all_weights is None else all_weights})
    plan = Plan(round, list(range(len(models) + failed)))
    asked = all_there(server).configure_train(round, record(sent), told, Cohort(plan))
    assert len(list(asked)) == len(plan.asked)
    replies = []
    for client, (model, weight) in enumerate(zip(models, weights, strict=True)):
        numbers = MetricRecord({"num-examples": weight, **(metrics[client] if metrics else {})})
        content = RecordDict({"arrays": record(model), "metrics": numbers})
        replies.append(Message(content, reply_to=_question(client)))
    replies += [Message(Error(0, "failed"), reply_to=_question(len(models) + index)) for index in range(failed)]
    made, said = server.aggregate_train(round, replies)
    if made is None or said is None:
        return None
    return {name: array.numpy() for name, array in made.items()}, dict(said)


def record(tensors: Mapping[str, ArrayLike]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.array(values, np.float32)) for name, values in tensors.items()})


def _question(client: int) -> Message:
    return Message(RecordDict(), client, "train")
