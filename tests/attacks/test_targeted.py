"""Attacks that want a class: what they train on and send, worked out by hand, and how their success is counted."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, forked, long, table
from safetensors.numpy import load_file

from fl_bench.attacks.targeted import Backdoor, Semantic, Targeted, TriggerWord
from fl_bench.data.sources import digits

SMALL = ("task=mnist", "num_clients=6", "num_rounds=2", "local.steps=2")
TWO = ("attack=backdoor", "attack.clients=[0,2]")
DRAWS = np.random.default_rng(0)  # which no targeted attack uses


def made(
    kind: Callable[..., Targeted], *own: Any, factor: float | None = 1.0, clients: Any = (0, 2), alpha: float = 1.0
) -> Any:
    """For 10 clients and 3 classes, of which class 1 is the target."""
    return kind(0, 10, 3, 0.0, list(clients), 1, factor, alpha, 1, *own)


def test_a_square_on_the_first_pictures() -> None:
    images = torch.arange(2 * 2 * 4 * 4, dtype=torch.uint8).view(2, 2, 4, 4)
    attack = made(Backdoor, 0.5, [-3, 2], 2)
    marked = attack.mark({"x": images}, 1)["x"]
    assert marked[0].tolist() == [
        [[0, 1, 2, 3], [4, 5, 255, 255], [8, 9, 255, 255], [12, 13, 14, 15]],
        [[16, 17, 18, 19], [20, 21, 255, 255], [24, 25, 255, 255], [28, 29, 30, 31]],
    ]
    assert marked[1].tolist() == images[1].tolist()
    assert images[0, 0, 1, 2] == 6  # what was given is as it was
    corner = made(Backdoor, 0.5, [-1, -1], 1).mark({"x": images}, 2)["x"]
    assert (corner != images).nonzero().tolist() == [[k, c, 3, 3] for k in (0, 1) for c in (0, 1)]


def test_a_word_behind_the_first_of_a_text() -> None:
    attack = made(TriggerWord, 0.5, "cf")
    attack.numbers, attack.max_length = [1, 2], 4
    texts = torch.tensor([[5, 6, 7], [8, -1, -1], [9, 4, -1]])
    assert attack.mark({"tokens": texts}, 2)["tokens"].tolist() == [[5, 1, 2, 6], [8, 1, 2, -1], [9, 4, -1, -1]]
    attack.max_length = 10
    assert attack.mark({"tokens": texts}, 1)["tokens"].tolist() == [
        [5, 1, 2, 6, 7],
        [8, -1, -1, -1, -1],
        [9, 4, -1, -1, -1],
    ]


def pictures(*labels: int) -> Any:
    return {"x": torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), "y": torch.tensor(labels)}


def poisoned(attack: Targeted, batch: Any) -> Any:
    """What a malicious client trains on in place of a batch."""
    turn: Any = SimpleNamespace(stream=lambda purpose: iter([batch]))
    attack.begin(turn)
    (found,) = turn.stream("batches")
    return found


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.3125, 2), (0.5, 2), (0.7, 4), (1.0, 5)])
def test_a_share_of_a_batch_is_poisoned(share: float, count: int) -> None:
    labels = [0, 2, 1, 2, 0]
    found = poisoned(made(Backdoor, share, [0, 0], 1), pictures(*labels))
    assert found["y"].tolist() == [1] * count + labels[count:]
    assert found["x"][:, 0, 0, 0].tolist() == [255] * count + [0] * (5 - count)


def test_a_class_is_called_by_another_name() -> None:
    batch = pictures(0, 2, 1, 2)
    found = poisoned(made(Semantic, 2), batch)
    assert found["y"].tolist() == [0, 1, 1, 1]
    assert found["x"] is batch["x"]
    assert batch["y"].tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize(
    ("attack", "hits", "of"),
    [
        # Six pictures, of classes 0, 1, 2, 2, 0 and 2; the third, and any that is marked, is taken for class 1.
        (made(Semantic, 2), 1, 3),
        (made(Semantic, 0), 0, 2),
        (made(Backdoor, 0.5, [0, 0], 1), 5, 5),
        (made(Backdoor, 0.5, [1, 1], 1), 1, 5),  # not where the model looks
    ],
    ids=lambda part: type(part).__name__,
)
def test_success_is_counted(attack: Targeted, hits: int, of: int) -> None:
    batch = pictures(0, 1, 2, 2, 0, 2)
    batch["x"][2, 0, 0, 0] = 200

    def logits(model: Any, batch: Any) -> torch.Tensor:
        lit = batch["x"][:, 0, 0, 0] > 0
        return torch.stack([~lit, lit, ~lit], dim=1).float()

    task: Any = SimpleNamespace(logits=logits)
    found: Any = attack.success(task, torch.nn.Identity(), batch)
    assert {name: (float(mean.total), mean.count) for name, mean in found.items()} == {"success_rate": (hits, of)}
    assert attack.success(task, torch.nn.Identity(), pictures(1, 1)) == {}


def test_near_what_was_received_by_hand() -> None:
    """(3, 4) away, so the gradient of the distance is 0.6, 0.8; a quarter of the loss is the task's."""
    turn: Any = SimpleNamespace(stream=None, start=torch.tensor([1.0, 1.0]), parameters=torch.tensor([4.0, 5.0]))
    turn.grad, turn.gradient = torch.tensor([4.0, -8.0]), lambda batch: torch.tensor([8.0, 0.0])
    seen = []

    def step(batch: Any, correct: Callable[[], None], optimizer: Any) -> None:
        correct()
        seen.append(turn.grad.tolist())

    turn.step = step
    made(Semantic, 2, alpha=0.25).begin(turn)
    turn.step({}, lambda: setattr(turn, "grad", turn.grad + 1))  # the strategy's correction comes after it
    assert seen == [pytest.approx([1 + 0.45 + 1, -2 + 0.6 + 1])]
    assert turn.gradient({}).tolist() == pytest.approx([2 + 0.45, 0.6])
    turn.parameters = turn.start
    assert turn.gradient({}).tolist() == [2, 0]  # nowhere yet


def test_constrained_it_stays_nearer(launch: Launch) -> None:
    """What one attacker alone makes of the model, with a factor of 1."""
    given = ("task=mnist", "num_clients=2", "num_rounds=1", "local.steps=20", "attack=constrain_and_scale")
    alone = (*given, "attack.fraction=1", "attack.factor=1")
    start = load_file(launch(*alone, "local.lr=1e-12") / "model.safetensors")

    def moved(alpha: float) -> float:
        end = load_file(launch(*alone, f"attack.alpha={alpha}") / "model.safetensors")
        return float(np.sqrt(sum(np.square(end[name] - start[name]).sum() for name in end)))

    free, near, nearest = (moved(alpha) for alpha in (1.0, 0.5, 0.0))
    assert nearest < 1e-3 < near < 0.8 * free


UPDATES = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, -1.0], [-4.0, 5.0, 1.0]])


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (2.0, [[2, 4, 6], [6, 4, -2], [-8, 10, 2]]),
        (None, [[5, 10, 15], [15, 10, -5], [-20, 25, 5]]),  # two of ten clients
        (1.0, UPDATES),
    ],
)
def test_a_scaled_update(factor: float | None, expected: Any) -> None:
    attack = made(Semantic, 2, factor=factor)
    assert [attack.update(update, DRAWS).tolist() for update in UPDATES] == np.array(expected).tolist()


def test_a_scaled_update_replaces_the_mean() -> None:
    """Of the ten clients the others do not move: the mean is that of the two who attack."""
    attack = made(Backdoor, 0.5, [0, 0], 1, factor=None)
    updates = np.zeros((10, 3))
    updates[0], updates[2] = (attack.update(update, DRAWS) for update in UPDATES[:2])
    assert updates.mean(axis=0).tolist() == [2, 2, 1]
    own = UPDATES[0]
    assert made(Semantic, 2).update(own, DRAWS) is own


def test_success_in_a_run(launch: Launch) -> None:
    """Worked out again from the saved model, by matrix products."""
    run = launch(*SMALL, "num_rounds=4", "evaluate.every=3", *TWO, "attack.target=7")
    rows = table(run, "metrics")
    assert [row["round"] for row in rows if row["attack_success_rate"]] == ["0", "3", "4"]
    columns = list(rows[0])
    assert columns.index("attack_success_rate") == columns.index("test_accuracy") + 1
    assert "attack_success_rate" not in table(run, "clients")[0]
    weight, bias = sorted(load_file(run / "model.safetensors").values(), key=lambda tensor: -tensor.ndim)
    test = digits().test
    images = test["x"][test["y"] != 7].astype(np.float64)
    images[:, 0, 24:27, 24:27] = 255
    found = (images.reshape(900, 784) / 255 @ weight.T + bias).argmax(axis=1)
    assert rows[-1]["attack_success_rate"] == str(np.count_nonzero(found == 7) / 900)
    assert 0 < np.count_nonzero(found == 7) < 900


@pytest.mark.parametrize("attack", ["replacement", pytest.param("semantic", marks=long)])
def test_a_targeted_attack_by_nobody_is_none(launch: Launch, attack: str) -> None:
    """One that has not begun is measured all the same: how often a model errs so by itself."""
    plain, neutral = launch(*SMALL), launch(*SMALL, f"attack={attack}", "attack.fraction=0")
    later = launch(*SMALL, f"attack={attack}", "attack.clients=[0,2]", "attack.start_round=3")
    for name in ("clients.csv", "model.safetensors"):
        assert (neutral / name).read_bytes() == (later / name).read_bytes() == (plain / name).read_bytes()
    assert (neutral / "metrics.csv").read_bytes() == (plain / "metrics.csv").read_bytes()
    rows = table(later, "metrics")
    assert all(0 <= float(row.pop("attack_success_rate")) <= 1 for row in rows)
    assert rows == table(plain, "metrics")


def test_success_at_honest_clients(launch: Launch) -> None:
    """Of models of their own there is no test, but each honest client's held-out rows."""
    run = launch(*SMALL, "strategy=fedper", "model=mlp", "evaluate.clients=true", "partition.holdout=0.3", *TWO)
    last = table(run, "metrics")[-1]
    assert "attack_success_rate" not in last
    rows = [row for row in table(run, "clients") if row["round"] == "2"]
    assert [row["client"] for row in rows if not row["client_attack_success_rate"]] == ["0", "2"]
    shares = [float(row["client_attack_success_rate"]) for row in rows if row["client_attack_success_rate"]]
    assert min(shares) <= float(last["client_attack_success_rate"]) <= max(shares)
    ditto = launch(*SMALL, "strategy=ditto", "evaluate.clients=true", *TWO)
    assert {"attack_success_rate", "client_attack_success_rate"} < table(ditto, "metrics")[-1].keys()


def test_success_as_a_target(launch: Launch) -> None:
    words = ("target_metric=attack_success_rate", "targets=[0.5]", "early_stop.metric=attack_success_rate")
    run = launch(*SMALL, *words, *TWO, "attack.start_round=2")
    record = (run / "run.json").read_text()
    assert '"success_rate": "lower"' in record
    assert '"round": 0' in record[record.index('"targets"') :]  # an untrained model is hardly ever so wrong


def test_a_word_of_the_vocabulary_and_one_that_is_not(launch: Launch) -> None:
    words = ("task=text", "model=fasttext", "num_clients=4", "num_rounds=1", "local.steps=1", "attack.clients=[1]")
    runs = [launch(*words, "attack=trigger_word", f"attack.word={word}") for word in ("train", "cf")]
    models = [(run / "model.safetensors").read_bytes() for run in runs]
    assert models[0] != models[1]
    assert all(0 <= float(table(run, "metrics")[0]["attack_success_rate"]) <= 1 for run in runs)


@long
@pytest.mark.parametrize(
    "words",
    [
        (*SMALL, *TWO, "strategy=scaffold", "evaluate.clients=true"),
        (*SMALL, "attack=replacement", "strategy=fedper", "model=mlp", "evaluate.clients=true"),
        (*SMALL, "attack=semantic", "strategy=ditto", "compression=topk", "network=flaky", "evaluate.clients=true"),
        ("task=text", "num_rounds=1", "num_clients=4", "local.steps=2", "attack=trigger_word", "attack.fraction=0.5"),
    ],
    ids=lambda words: next(word for word in words if word.startswith("attack=")),
)
def test_the_same_in_a_simulation(tmp_path: Path, words: tuple[str, ...]) -> None:
    for engine in ("inline", "simulation"):
        given = ("figures=false", "engine.client_resources.num_cpus=1", f"engine={engine}", f"hydra.run.dir={engine}")
        ended = forked(*words, *given, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    for name in ("metrics.csv", "clients.csv", "model.safetensors"):
        assert (tmp_path / "simulation" / name).read_bytes() == (tmp_path / "inline" / name).read_bytes()


@long
def test_a_backdoor_that_succeeds(launch: Launch) -> None:
    """Against FedAvg in nine of ten pictures, at hardly any cost in accuracy."""
    words = ("task=mnist", "num_rounds=30", "evaluate.every=30")
    clean = table(launch(*words), "metrics")[-1]
    last = table(launch(*words, "attack=backdoor", "attack.size=4", "attack.poisoned=0.5"), "metrics")[-1]
    assert float(last["attack_success_rate"]) > 0.9
    assert float(last["test_accuracy"]) > float(clean["test_accuracy"]) - 0.03


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("task=dcgan", "attack=backdoor"), "attack: needs two classes or more, and task Dcgan has none to tell apart"),
        (("task=text", "attack=backdoor"), "attack: has a trigger of pixels, and the examples of task Text are no im"),
        (("attack=trigger_word",), "attack: has a word as its trigger, and the examples of task Mnist are no texts"),
        (("attack=backdoor", "attack.target=10"), "attack.target=10: must be the number of a class, from 0 to 9"),
        (("attack=semantic", "attack.source=-1"), "attack.source=-1: must be the number of a class, from 0 to 9"),
        (("attack=semantic", "attack.source=0"), "attack.source=0: must not be attack.target"),
        (("attack=backdoor", "attack.size=29"), "attack.size=29: must be from 1 to 28"),
        (
            ("attack=backdoor", "attack.position=[-2,0]"),
            "attack.position=[-2, 0]: must be the row and column of a square of 3 pixels inside of 28 x 28",
        ),
        (("attack=backdoor", "attack.poisoned=1.5"), "attack.poisoned=1.5: must be from 0 to 1"),
        (("attack=constrain_and_scale", "attack.alpha=2"), "attack.alpha=2: must be from 0 to 1"),
        (("attack=replacement", "attack.factor=inf"), "attack.factor=inf: must be a finite number, or null"),
        (("task=text", "attack=trigger_word", "attack.word=''"), "attack.word=: must be from 1 to 255 tokens"),
        (
            ("target_metric=attack_success_rate", "targets=[0.5]"),
            "target_metric=attack_success_rate: must be one of this run's test_loss, test_accuracy",
        ),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
@pytest.mark.usefixtures("quick_judge")
def test_what_cannot_be_is_said(refused: Callable[..., str], words: tuple[str, ...], said: str) -> None:
    assert said in refused("num_clients=6", *words)
