"""Canaries: who says yes, what arrives of it, and that those who are not there change nothing."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, often, table

from fl_bench.attacks.canaries import FAR, CanaryClients, CanaryRows
from fl_bench.data.arrays import PADDING, FederatedData
from fl_bench.metrics import Mean
from fl_bench.strategies.clipping import Clipping
from fl_bench.tasks.base import gather


def test_a_client_says_yes_by_its_coin_and_what_arrives_is_as_long_as_the_clip() -> None:
    for opposite, no in ((True, -1.0), (False, 0.0)):
        attack = CanaryClients(0, 40, 2, count=12, opposite=opposite)
        assert len(attack.malicious) == 12
        assert not attack.attacks(next(iter({*range(40)} - attack.malicious)), 1)
        assert attack.inside.tolist() != [attack.inside[0]] * 12
        for number, client in enumerate(attack.owners):
            end = arrived(attack, int(client))
            along = attack.direction(number, 5) @ (end - 1)
            assert along == pytest.approx(0.5 if attack.inside[number] else 0.5 * no, abs=1e-6)
            assert np.linalg.norm(end - 1) == pytest.approx(abs(along), abs=1e-6)


def arrived(attack: CanaryClients, client: int) -> Any:
    """What a canary sends after two steps from five ones, clipped to 0.5."""
    turn: Any = SimpleNamespace(client=client, start=torch.ones(5), parameters=torch.ones(5), steps=0, model=None)
    turn.place, turn.reply, turn.config = turn.parameters.copy_, {}, {"clipping_norm": 0.5}
    turn.task = SimpleNamespace(objective=lambda model, batch: (None, {"loss": Mean(float(turn.parameters.sum()), 1)}))
    attack.begin(turn)
    losses = [turn.step({})["loss"].value for _ in range(2)]
    assert (losses, turn.steps) == ([5.0, 5.0], 2)  # of the model as it was received
    assert float((turn.parameters - 1).norm()) in (0.0, pytest.approx(FAR))
    Clipping().finish(turn)
    return turn.parameters.numpy()


def rows_of(count: int) -> CanaryRows:
    attack = CanaryRows(0, 2, 2, count=count)
    columns = {"x": np.arange(40, dtype=np.float32).reshape(20, 2), "y": np.repeat([0, 1], 10)}
    task: Any = SimpleNamespace(gather=gather)
    attack.suit(task, FederatedData(columns, columns, ("no", "yes")))
    return attack


def test_rows_that_are_in_join_the_batches_of_their_client_at_random() -> None:
    attack = rows_of(40)
    assert sorted(attack.malicious) == [0, 1]
    assert attack.of(1).tolist() == list(range(1, 40, 2))
    batch = {"x": torch.full((3, 2), -1.0), "y": torch.zeros(3, dtype=torch.int64)}
    turn: Any = SimpleNamespace(client=1, round=1, batches_per_epoch=4, stream=lambda purpose: [batch] * 1000)
    attack.begin(turn)
    batches = list(turn.stream("batches"))
    assert all((found["x"][:3] == -1).all() and len(found["x"]) == len(found["y"]) for found in batches)
    added = torch.cat([found["x"][3:] for found in batches])
    mine = attack.rows["x"][attack.of(1)[attack.inside[attack.of(1)]]]
    counts = (added[:, None] == mine).all(dim=2).sum(dim=0)
    assert counts.sum() == len(added)  # nothing else, such as those that are out
    assert counts.float().mean() == pytest.approx(250, abs=20)  # one in four batches
    assert counts.min() > 180


def test_a_row_is_made_of_the_numbers_of_the_data() -> None:
    made = rows_of(500).rows
    assert {*made["y"].tolist()} == {0, 1}
    assert {*made["x"].ravel().tolist()} == {float(number) for number in range(40)}
    assert len({tuple(row) for row in made["x"].tolist()} - {(2.0 * k, 2.0 * k + 1) for k in range(20)}) > 300


SMALL = ("data=synthetic", "data.num_samples=300", "num_clients=6", "num_rounds=1")


@pytest.mark.parametrize("kind", often(["canary_clients", "canary_rows"], "canary_clients"))
def test_none_is_no_attack_to_the_bit_and_some_are(launch: Launch, kind: str) -> None:
    words = (*SMALL, "privacy=example" if kind == "canary_rows" else "strategy=dp_client_fixed", f"attack={kind}")
    plain, none, some = launch(*words[:-1]), launch(*words, "attack.count=0"), launch(*words, "attack.count=4")
    for name in ("metrics.csv", "clients.csv", "model.safetensors"):
        assert (none / name).read_bytes() == (plain / name).read_bytes()
    assert (some / "model.safetensors").read_bytes() != (plain / "model.safetensors").read_bytes()
    assert {row["status"] for row in table(some, "clients") if row["round"] != "0"} == {"ok"}
    assert table(some, "metrics")[-1]["epsilon"] == table(plain, "metrics")[-1]["epsilon"]


def test_shorter_texts_are_filled_up() -> None:
    attack = rows_of(2)
    attack.rows = {"tokens": torch.tensor([[7, 8, 9], [7, 8, 9]])}
    attack.inside = np.array([True, True])
    turn: Any = SimpleNamespace(client=1, round=1, batches_per_epoch=1, stream=lambda _: [{"tokens": torch.ones(1, 2)}])
    attack.begin(turn)
    assert next(iter(turn.stream("batches")))["tokens"].tolist() == [[1, 1, PADDING], [7, 8, 9]]


def test_what_cannot_be_is_said(refused: Callable[..., str]) -> None:
    said = refused("num_clients=6", "attack=canary_clients", "attack.count=7")
    assert "attack.count=7: must not be more than the 6 clients that train" in said
    assert "attack.count=-1: must be 0 or more" in refused("attack=canary_rows", "attack.count=-1")
