"""When a GPU has no room for all workers: half of them go on, and whoever found no room is repeated."""

import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose, digests, table
from flwr.app import Message

from fl_bench.build import build
from fl_bench.engines import inline_grid, ray_grid
from fl_bench.engines.base import Engine
from fl_bench.engines.resources import fraction, limit_gpus
from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer

GIB = 2**30


class Crowded(inline_grid.InlineGrid):
    """Four workers, of which only so many have room at once as `room` says."""

    room = 2
    working = 0

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3, 4]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ids = list(message_ids)
        Crowded.working = len(ids)
        return super().pull_messages(ids)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Trainer.train

    def with_little_room(self: Trainer, client: int, *rest: Any) -> Any:
        if Crowded.working > Crowded.room and client % 2:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return train(self, client, *rest)

    monkeypatch.setattr(inline_grid, "InlineGrid", Crowded)
    monkeypatch.setattr(Trainer, "train", with_little_room)


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_half_of_the_workers_go_on_and_nothing_changes(
    strategy: str, launch: Callable[..., Path], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("num_rounds=2", "num_clients=8", "partition=linear", "local.steps=2", f"strategy={strategy}")
    expected = launch(*words)
    request.getfixturevalue("crowded")
    assert digests(launch(*words)) == digests(expected)
    assert capsys.readouterr().err.count("out of GPU memory: 2 of the workers go on") == 1


def test_a_test_set_without_room_is_repeated_too(launch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("num_rounds=1", "num_clients=4", "local.steps=1", "evaluate.batch_size=100")
    expected, test = launch(*words), Trainer.test

    def with_little_room(self: Trainer, *rest: Any) -> Any:
        if Crowded.working > Crowded.room:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED (a test)")
        return test(self, *rest)

    monkeypatch.setattr(inline_grid, "InlineGrid", Crowded)
    monkeypatch.setattr(Trainer, "test", with_little_room)
    assert digests(launch(*words)) == digests(expected)


def test_who_has_no_room_even_alone_has_failed(
    launch: Callable[..., Path], crowded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Crowded, "room", 0)
    rows = table(launch("num_rounds=1", "num_clients=4", "local.steps=1"), "clients")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "failed"]


@pytest.mark.parametrize(
    ("need", "free", "num_gpus", "most_workers", "expected"),
    [
        (3 * GIB, 24 * GIB, 1, 16, 1 / 8),  # eight fit
        (3 * GIB, 24 * GIB, 1, 4, 1 / 4),  # but there are processors for four
        (3 * GIB, 24 * GIB, 2, 16, 1 / 8),
        (3 * GIB, 24 * GIB, 2, 5, 1 / 3),  # three and two
        (30 * GIB, 24 * GIB, 1, 16, 1.0),  # one must try
        (3 * GIB, 24 * GIB, 8, 4, 1.0),  # more GPUs than workers
    ],
)
def test_the_fraction_is_what_a_worker_needs(
    need: int, free: int, num_gpus: int, most_workers: int, expected: float
) -> None:
    assert fraction(need, free, num_gpus, most_workers) == expected


@pytest.mark.parametrize(
    ("machines", "num_gpus", "expected"),
    [
        ([{"CPU": 4.0}, {"CPU": 2.0}], 0, [4, 2]),
        ([{"CPU": 5.0, "GPU": 2.0}], 0.4, [4]),  # a share is of one GPU: two fit on each
        ([{"CPU": 60.0, "GPU": 1.0}], 1 / 49, [49]),
        ([{"CPU": 8.0, "GPU": 4.0}], 2, [2]),
    ],
)
def test_as_many_workers_as_ray_can_place(
    machines: list[dict[str, float]], num_gpus: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        there = {"Alive": True, "NodeManagerHostname": "here", "NodeManagerAddress": host, "NodeManagerPort": port}
        nodes = [{"Resources": machine, "NodeID": str(k), **there} for k, machine in enumerate(machines)]
        monkeypatch.setattr("ray.nodes", lambda: nodes)
        places = ray_grid._places({"num_cpus": 1.0, "num_gpus": num_gpus})
    found = [place.machine for place in places]
    assert [found.count(str(k)) for k in range(len(machines))] == expected


def test_no_room_anywhere_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        node = {
            "Resources": {"CPU": 4.0},
            "Alive": True,
            "NodeID": "a",
            "NodeManagerHostname": "here",
            "NodeManagerAddress": host,
        }
        monkeypatch.setattr("ray.nodes", lambda: [node | {"NodeManagerPort": port}])
        assert len(ray_grid._places({"num_cpus": 1.0, "num_gpus": 0})) == 4
        with pytest.raises(ConfigError, match="no machine has that much"):
            ray_grid._places({"num_cpus": 1.0, "num_gpus": 1.0})
    with pytest.raises(ConfigError, match="no machine has that much"):  # it has died, and Ray does not know yet
        ray_grid._places({"num_cpus": 1.0, "num_gpus": 0})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_auto_without_a_gpu_is_none() -> None:
    engine = build(compose("engine.client_resources.num_gpus=auto").engine, Engine)
    limit_gpus(engine)
    assert engine.resources["num_gpus"] == 0
    assert engine.client_resources["num_gpus"] == "auto"  # the config stays as it was
