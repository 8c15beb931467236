"""A server half at work, without a run: what it makes of some clients' models."""

from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.federation.cohort import Cohort
from fl_bench.network.schedule import Plan
from fl_bench.strategies.server import ALL_WEIGHTS

Tensors = Mapping[str, Sequence[float]]


def serve(
    server: Strategy,
    sent: Tensors,
    models: Sequence[Tensors],
    weights: Sequence[int] | None = None,
    metrics: Sequence[Mapping[str, float]] | None = None,
    all_weights: int | None = None,
    round: int = 1,
) -> tuple[dict[str, NDArray], dict[str, float]] | None:
    """The new model and the metrics of a round; None where there is no new one."""
    InlineGrid()  # gives messages the identity that they must bear
    server.min_train_nodes = server.min_available_nodes = 1  # type: ignore[attr-defined]
    weights = weights or [1] * len(models)
    told = ConfigRecord({ALL_WEIGHTS: sum(weights) if all_weights is None else all_weights})
    plan = Plan(round, list(range(len(models))))
    list(server.configure_train(round, record(sent), told, Cohort(plan)))
    replies = []
    for client, (model, weight) in enumerate(zip(models, weights, strict=True)):
        numbers = MetricRecord({"num-examples": weight, **(metrics[client] if metrics else {})})
        content = RecordDict({"arrays": record(model), "metrics": numbers})
        replies.append(Message(content, reply_to=Message(RecordDict(), client, "train")))
    made, said = server.aggregate_train(round, replies)
    if made is None or said is None:
        return None
    return {name: array.numpy() for name, array in made.items()}, dict(said)  # type: ignore[arg-type]


def record(tensors: Tensors) -> ArrayRecord:
    return ArrayRecord({name: Array(np.array(values, np.float32)) for name, values in tensors.items()})
