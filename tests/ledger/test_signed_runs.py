"""Runs with a ledger: the same results, the same ledger on every engine, and every model made again of the updates."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import STRATEGIES, Launch, compose, digests, forked, long, often, table
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fl_bench.build import build
from fl_bench.cli import dispatch
from fl_bench.errors import ConfigError, FlBenchError
from fl_bench.ledger import chain, merkle
from fl_bench.ledger.signers import Signers, _key
from fl_bench.ledger.statements import STATEMENT, canonical, digest, sign
from fl_bench.robust.base import Rule
from fl_bench.robust.before import Mixing
from fl_bench.runs.ledger import check_ledger
from fl_bench.runs.prepare import prepare
from fl_bench.storage.buffers import BESIDE
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Task

SMALL = ("task=mnist", "num_clients=5", "num_rounds=3", "local.steps=2", "data=synthetic", "data.num_samples=200")
SIGNED = "ledger=signed"


def verify(run: Path, *words: str) -> int:
    return dispatch(["verify", str(run), *words])


def without_ledger(run: Path) -> dict[str, str]:
    return {name: found for name, found in digests(run).items() if not name.startswith("ledger")}


def block(run: Path, round: int) -> Any:
    return json.loads((run / "ledger" / f"{round}.json").read_text())


@pytest.mark.parametrize("strategy", often(STRATEGIES, "fedbuff", "qfedavg"))
def test_results_are_the_same_and_models_are_made_again(launch: Launch, strategy: str) -> None:
    words = (*SMALL, f"strategy={strategy}")
    plain, signed = launch(*words), launch(*words, SIGNED)
    assert without_ledger(signed) == digests(plain)
    assert verify(signed) == 0


COMPOSED = [
    ("network=flaky", "network.dropout=0.4", "compression=topk", "attack=alie", "attack.clients=[0,3]"),
    ("robust=centered_clipping", "strategy=fedavgm", "clients_per_round=3", "compression/down=quantize"),
    pytest.param(("robust=flame", "robust/before=bucketing", "attack=gaussian", "attack.clients=[1]"), marks=long),
    pytest.param(("robust=norm_bound", "strategy=scaffold", "weighting=uniform", "engine.packing=false"), marks=long),
    pytest.param(("strategy=dp_server_adaptive", "strategy.sampling=poisson"), marks=long),
    pytest.param(("compression=importance", "strategy=fedadam", "min_clients=4"), marks=long),
    pytest.param(("model=resnet8", "task=cifar", "strategy=fedbn", "num_rounds=2"), marks=long),
    ("engine.vectorize=5", "strategy=feddyn"),
]


@pytest.mark.parametrize("words", COMPOSED, ids=" ".join)
def test_ledgers_compose(launch: Launch, words: tuple[str, ...]) -> None:
    plain, signed = launch(*SMALL, *words), launch(*SMALL, *words, SIGNED)
    assert without_ledger(signed) == digests(plain)
    assert verify(signed) == 0


@pytest.fixture
def signed(launch: Launch) -> Path:
    return launch(*SMALL, SIGNED)


@long
def test_a_simulation_has_the_ledger_of_one_process(launch: Launch, tmp_path: Path) -> None:
    words = (*SMALL, SIGNED, "network=flaky", "network.dropout=0.4", "num_rounds=2")
    others = ("engine.client_resources.num_cpus=1", "hydra.run.dir=simulated")
    result = forked(*words, *others, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "simulated") == digests(launch(*words, "local.lr_horizon=2"))  # as the command has it
    assert (tmp_path / "simulated" / "figures" / "ledger.png").exists()


def test_what_is_in_a_ledger(signed: Path) -> None:
    """By the run's other files, and for a round of plain FedAvg by NumPy."""
    assert sorted(file.name for file in (signed / "ledger").iterdir()) == [
        f"{round}.{kind}" for round in range(4) for kind in ("f32", "json")
    ]
    for row in table(signed, "clients"):
        said = block(signed, int(row["round"]))["statements"][int(row["client"])]["body"]["answer"]
        assert (str(said["client"]), str(said["num_examples"]), said["status"]) == (
            row["client"], row["num_examples"], row["status"],
        )  # fmt: skip
        assert float(row["train_loss"]) == said["metrics"]["loss"][0] / said["metrics"]["loss"][1]
    for round in range(1, 4):
        begun = {statement["body"]["start"] for statement in block(signed, round)["statements"]}
        assert begun == {block(signed, round - 1)["header"]["model"]}
    final = load_file(signed / "model.safetensors")
    last = np.concatenate([final[name].ravel() for name, _ in block(signed, 0)["header"]["layout"]])
    assert block(signed, 3)["header"]["model"] == digest(last)
    sent = np.fromfile(signed / "ledger" / "3.f32", "<f4").reshape(5, -1).astype(np.float64)
    weights = [statement["body"]["answer"]["weight"] for statement in block(signed, 3)["statements"]]
    assert np.average(sent, axis=0, weights=weights) == pytest.approx(last, abs=1e-6)


def test_who_was_silent_is_named(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    train = LocalAlgorithm.train

    def fails(self: LocalAlgorithm, turn: Turn) -> Any:
        if turn.client == 2:
            raise ValueError("no")
        return train(self, turn)

    monkeypatch.setattr(LocalAlgorithm, "train", fails)
    run = launch(*SMALL, SIGNED, "network=flaky", "network.dropout=0.4", "num_rounds=4")
    rows = [row for row in table(run, "clients") if row["status"] != "ok"]
    silent = [
        (str(round), str(said["client"]), said["status"])
        for round in range(1, 5)
        for said in block(run, round)["header"]["silent"]
    ]
    assert silent == [(row["round"], row["client"], row["status"]) for row in rows]
    assert {status for _, _, status in silent} == {"failed", "dropped"}
    assert verify(run) == 0


def rewritten(run: Path, change: Callable[[int, Any, list[NDArray[np.float32]]], None]) -> None:
    """Write the chain anew, as who has all keys can, with each block and its models as `change` leaves them."""
    signers, folder, last = Signers.of_seed(0, 5), run / "ledger", ""
    size = chain.size_of(chain.read(folder, 0).header)
    for round in chain.rounds(folder):
        models = list(chain.models(folder, chain.read(folder, round), size))
        found = block(run, round)
        change(round, found, models)
        for statement in found["statements"]:
            key = _key(0, statement["body"]["answer"]["client"])
            statement["signature"] = sign(key, STATEMENT, statement["body"])
        last = chain.write(folder, found["header"], found["statements"], models, signers.server, last)
    assert list(chain.faults(folder)) == []


def test_a_chain_written_anew_must_have_the_models_of_its_updates(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = digests(signed)
    rewritten(signed, lambda round, found, models: None)
    assert digests(signed) == whole

    def change(round: int, found: Any, models: list[NDArray[np.float32]]) -> None:
        if round == 2:
            models[3] = models[3] + np.float32(0.01)
            found["statements"][3]["body"]["update"] = digest(models[3])

    rewritten(signed, change)
    assert verify(signed) == 1
    assert "block 2: its model is not what the server makes of the updates\n" in capsys.readouterr().out


def test_a_client_that_began_with_another_model_is_found(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(round: int, found: Any, models: list[NDArray[np.float32]]) -> None:
        if round == 3:
            found["statements"][1]["body"]["start"] = "0" * 64

    rewritten(signed, change)
    assert verify(signed) == 1
    assert "block 3: client 1 began with another model than the server has sent\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("server", {"_target_": "os.system"}, "its strategy.server._target_ is os.system, which"),
        ("needs_each_client", "${oc.env:HOME}", "0.json: is damaged: its config has an interpolation"),
    ],
)
def test_a_chain_of_somebodys_builds_nothing_strange(signed: Path, part: str, value: Any, said: str) -> None:
    def change(round: int, found: Any, models: list[NDArray[np.float32]]) -> None:
        if round == 0:
            found["header"]["config"]["strategy"][part] = value

    rewritten(signed, change)
    with pytest.raises(FlBenchError, match=said):
        verify(signed)


def change_json(run: Path, change: Callable[[Any], Any]) -> None:
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))


def change_model(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    save_file({name: tensor + np.float32(1e-6) for name, tensor in tensors.items()}, run / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: change_json(run, lambda r: r["config"].update(seed=3)), "run.json: seed is 3, and in block 0 0"),
        (lambda run: change_json(run, lambda r: r["final"].update(round=4)), "run.json: the last round is 4, and"),
        (lambda run: (run / "ledger" / "3.json").unlink(), "run.json: the last round is 3, and the last block 2"),
        (change_model, "model.safetensors: 1.bias is not that of block 3"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors: is missing or damaged"),
        (lambda run: (run / "ledger" / "1.f32").write_bytes(b""), "block 1: "),
    ],
)
def test_what_else_does_not_fit(
    signed: Path, change: Callable[[Path], Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(signed)
    assert verify(signed) == 1
    assert said in capsys.readouterr().out


def test_the_proofs_of_a_client(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has the statement and the root needs nothing else."""
    assert verify(signed, "--client", "3") == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    assert len(lines) == 6
    for round, (first, second) in enumerate(zip(lines[::2], lines[1::2], strict=True), start=1):
        head, _, path = first.partition(", path ")
        assert head == f"round {round}: leaf 3 of 5"
        leaf = canonical(block(signed, round)["statements"][3])
        root = merkle.root_by(leaf, 3, 5, [bytes.fromhex(node) for node in path.split()])
        assert second.split()[1].rstrip(",") == root.hex() == block(signed, round)["header"]["root"]


def test_contributions_by_hand(launch: Launch, tmp_path: Path) -> None:
    """Of two clients: without one, a round's model is the other's, whose loss is worked out by NumPy."""
    words = (*SMALL, SIGNED, "num_clients=2", "num_rounds=2")
    run = launch(*words)
    assert verify(run, "--contribution") == 0
    cfg = compose(*words)
    (tmp_path / "data").mkdir()
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path / "data")
    test = trainer.task.gather(trainer.data.test, np.arange(trainer.data.num_tests), "cpu")
    x, y = test["x"].numpy().reshape(len(test["y"]), -1) / 255.0, test["y"].numpy()
    rows = table(run, "contribution")
    assert [(row["round"], row["client"]) for row in rows] == [("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]
    for row in rows:
        models = np.fromfile(run / "ledger" / f"{row['round']}.f32", "<f4").reshape(2, -1).astype(np.float64)
        other = models[1 - int(row["client"])]
        scores = x @ other[:-10].reshape(10, -1).T + other[-10:]
        loss = (np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(y)), y]).mean()
        assert float(row["without_test_loss"]) == pytest.approx(loss, rel=1e-5)
        assert row["test_loss"] == table(run, "metrics")[int(row["round"])]["test_loss"]


def test_masks_hide_what_a_ledger_keeps(refused: Callable[..., str]) -> None:
    said = refused(*SMALL, SIGNED, "secure_aggregation=masks")
    assert "secure_aggregation=masks: hides the updates, and of a ledger everybody can make the models again" in said


def test_only_models_are_kept(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish(self: LocalAlgorithm, turn: Turn) -> None:
        turn.sends["more"] = torch.ones(2)

    def aggregate(self: FedAvg, round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        beside = [reply.content.pop(BESIDE) for reply in replies]  # which Flower's would take for another model
        made = mean(self, round, replies)
        for reply, arrays in zip(replies, beside, strict=True):
            reply.content[BESIDE] = arrays
        return made

    mean = FedAvg.aggregate_train
    monkeypatch.setattr(LocalAlgorithm, "finish", finish)
    monkeypatch.setattr(FedAvg, "aggregate_train", aggregate)
    each = "strategy.needs_each_client=true"
    run = launch(*SMALL, SIGNED, each, exit_code=1)
    said = "ledger=signed: keeps models, and clients send arrays beside them; use ledger=none"
    assert said in capsys.readouterr().err
    assert chain.rounds(run / "ledger") == [0]
    launch(*SMALL, each)
    exchanging: Any = SimpleNamespace(exchanges=lambda round: 2, go_on=lambda *given: [])
    with pytest.raises(ConfigError, match=r"strategy: its rounds have several exchanges, of other arrays"):
        check_ledger(compose(*SMALL, SIGNED), exchanging, Rule(Mixing(), seed=0))


def test_what_verify_refuses(signed: Path, launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = launch(*SMALL)
    with pytest.raises(ConfigError, match=rf"{plain}: has no ledger; a run with ledger=signed has one"):
        verify(plain)
    with pytest.raises(ConfigError, match=r"--certs, --client, --contribution: are for the ledger of one run"):
        verify(signed, str(plain), "--client", "1")
    with pytest.raises(ConfigError, match=r"--client 5: has signed nothing in "):
        verify(signed, "--client", "5")
    assert verify(signed, str(plain)) == 0  # the same to the last bit
    assert "drifted: ledger.signed was True, now False" in capsys.readouterr().out
