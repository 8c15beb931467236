import numpy as np
import pytest
import torch
from torch import nn

from fl_bench.errors import ConfigError
from fl_bench.federation.parameters import FlatModel, Layout


def floating(model: nn.Module) -> list[str]:
    return [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]


def test_a_layout_splits_and_joins() -> None:
    layout = Layout({"a": (2, 2), "b": (), "c": (1,)})
    vector = np.arange(6, dtype=np.float32)
    parts = layout.split(vector)
    assert parts["a"].tolist() == [[0, 1], [2, 3]]
    assert (float(parts["b"]), parts["c"].tolist()) == (4, [5])
    record = layout.to_record(vector)
    assert list(record) == ["a", "b", "c"]
    assert (layout.from_record(record) == vector).all()


def test_writing_the_vector_writes_the_model_and_training_the_model_moves_the_vector() -> None:
    model = nn.Linear(2, 1)
    flat = FlatModel(model, floating(model), "cpu")
    flat.reset(torch.tensor([1.0, 2.0, 3.0]))
    assert model(torch.tensor([[10.0, 100.0]])).item() == 213
    model(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert flat.vector.tolist() == [0, 1, 2]


def test_counters_are_not_shared_and_start_afresh() -> None:
    model = nn.BatchNorm1d(1)
    flat = FlatModel(model, floating(model), "cpu")
    assert list(flat.layout.shapes) == ["weight", "bias", "running_mean", "running_var"]
    start = flat.vector.clone()
    model(torch.tensor([[1.0], [3.0]]))
    assert model.get_buffer("num_batches_tracked").item() == 1
    assert flat.vector[2].item() == pytest.approx(0.2)  # momentum 0.1 of the mean 2
    flat.reset(start)
    assert (model.get_buffer("num_batches_tracked").item(), model.get_buffer("running_mean").item()) == (0, 0)


def test_tied_weights_travel_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    flat = FlatModel(model, floating(model), "cpu")
    flat.reset(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert model(torch.tensor([[1.0, 2.0]])).tolist() == [[1, 2]]


def test_other_precisions_are_refused() -> None:
    model = nn.Linear(2, 1).half()
    with pytest.raises(ConfigError, match=r"weight is torch.float16"):
        FlatModel(model, floating(model), "cpu")
