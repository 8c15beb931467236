"""What arrives at the other end of the way, and what stays behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Launch, table

from fl_bench.compression.base import Codec
from fl_bench.compression.fp16 import Half
from fl_bench.compression.quantize import Quantize
from fl_bench.compression.sparse import RandomMask, TopK
from fl_bench.federation.channel import Channel, without_memory
from fl_bench.federation.parameters import Layout
from fl_bench.federation.update import Diverged
from fl_bench.storage.states import State
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn

LAYOUT = Layout({"w": (3, 4), "bn.running_var": (4,), "b": (4,)})


def vector(seed: int, size: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_what_was_sent_and_what_was_kept_are_all_updates() -> None:
    channel = Channel(0, TopK(0.25, feedback=True), Codec(), Layout({"w": (20,)}), [])
    start = vector(0)
    state: State = {}
    updates = [vector(seed) for seed in range(1, 6)]
    sent = [channel.arrives_up(3, round, start, start, start + u, state, 1.0) for round, u in enumerate(updates)]
    assert [np.count_nonzero(arrived != start) for arrived in sent] == [5] * 5
    total = np.sum([arrived - start for arrived in sent], axis=0) + state["compression/model/error"].numpy()
    assert np.allclose(total, np.sum(updates, axis=0), atol=1e-5)


def test_without_feedback_nothing_is_kept() -> None:
    channel = Channel(0, TopK(0.25, feedback=False), Codec(), Layout({"w": (20,)}), [])
    state: State = {}
    channel.arrives_up(0, 1, vector(0), vector(0), vector(1), state, 1.0)
    assert not state


def test_statistics_of_batchnorm_travel_as_they_are() -> None:
    channel = Channel(0, TopK(0.01, feedback=True), Quantize(1, None), LAYOUT, [])
    payload = vector(0)
    received = channel.arrives_down(payload, 1)
    assert np.array_equal(received[12:16], payload[12:16])
    assert not np.array_equal(received, payload)
    trained = received + vector(1)
    arrived = channel.arrives_up(0, 1, payload, received, trained, {}, 1.0)
    assert arrived is not None
    assert np.allclose(arrived[12:16], trained[12:16])
    assert np.count_nonzero(arrived != payload) == 5  # those four, and one of the others
    assert channel.bytes_up == 4 + 1 + 16  # a value, its index of four bits, four floats
    assert channel.bytes_down == 2 + 2 * 4 + 16  # sixteen bits, two scales, four floats


def test_each_vector_beside_the_model_is_encoded_by_itself() -> None:
    channel = Channel(0, TopK(1 / 16, feedback=True), Half(), LAYOUT, ["variate"])
    payload, trained = vector(0, 40), vector(1, 40)
    state: State = {}
    arrived = channel.arrives_up(0, 1, payload, channel.arrives_down(payload, 1), trained, state, 1.0)
    changed = np.flatnonzero(np.abs(arrived - payload) > 1e-6)
    assert (len(changed[changed < 20]), len(changed[changed >= 20])) == (5, 5)
    assert channel.bytes_up == 2 * (4 + 1 + 16)
    assert channel.bytes_down == 2 * (32 + 16)
    assert set(state) == {"compression/model/error", "compression/variate/error"}
    assert without_memory({**state, "variate": torch.zeros(1)}).keys() == {"variate"}


def test_what_loses_nothing_is_the_very_model() -> None:
    channel = Channel(0, Codec(), Codec(), LAYOUT, [])
    trained = vector(1)
    assert channel.arrives_up(0, 1, vector(0), channel.arrives_down(vector(0), 1), trained, {}, 1.0) is trained


def test_everybody_receives_the_same_and_rounds_differ() -> None:
    channel = Channel(0, Codec(), Quantize(4, None), LAYOUT, [])
    assert np.array_equal(channel.arrives_down(vector(0), 1), channel.arrives_down(vector(0), 1))
    assert not np.array_equal(channel.arrives_down(vector(0), 1), channel.arrives_down(vector(0), 2))


def test_an_update_that_compression_makes_too_large_is_divergence() -> None:
    channel = Channel(0, RandomMask(0.001, feedback=False), Codec(), Layout({"w": (20,)}), [])
    start = np.zeros(20, np.float32)
    with pytest.raises(Diverged, match="compression has made an update of"):
        channel.arrives_up(0, 1, start, start, start + 2**17, {}, 1.0)


NOTHING_TRAVELS = ["none", "fp16", "quantize", "topk", "random_mask", "sketch", "lowrank", "importance"]


@pytest.mark.parametrize("compression", NOTHING_TRAVELS)
def test_where_nothing_travels_nothing_is_compressed(launch: Launch, compression: str) -> None:
    folder = launch("strategy=fedper", f"compression={compression}", "compression/down=fp16", "num_rounds=2")
    assert {row["bytes_down"] for row in table(folder, "metrics")[1:]} == {"0"}


SHORT = ("num_rounds=12", "num_clients=4")


def final(folder: Path) -> float:
    return float(table(folder, "metrics")[-1]["test_loss"])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("compression=quantize", "compression.bits=16"), 1e-4),
        (("compression=topk", "compression.fraction=1"), 1e-6),
        (("compression=fp16",), 1e-4),
        (("compression/down=fp16",), 1e-3),
    ],
)
def test_mild_compression_is_fedavg_within_its_error(launch: Launch, words: tuple[str, ...], error: float) -> None:
    plain, other = launch(*SHORT), launch(*SHORT, *words)
    assert final(other) == pytest.approx(final(plain), abs=error)
    assert (other / "model.safetensors").read_bytes() != (plain / "model.safetensors").read_bytes()


def test_bytes_of_a_run(launch: Launch) -> None:
    """784 x 10 weights and 10 biases, for four clients."""
    first = table(launch("compression=quantize", *SHORT), "metrics")[1]
    assert (first["bytes_down"], first["bytes_up"]) == (str(4 * 4 * 7850), str(4 * (7850 + 2 * 4)))
    first = table(launch("compression=topk", "compression/down=fp16", *SHORT), "metrics")[1]
    # 79 of 7850 values, and as many indices of 13 bits: 128.4 bytes
    assert (first["bytes_down"], first["bytes_up"]) == (str(4 * 2 * 7850), str(4 * (79 * 4 + 129)))
    first = table(launch("compression=quantize", "strategy=scaffold", *SHORT), "metrics")[1]
    assert (first["bytes_down"], first["bytes_up"]) == (str(2 * 4 * 4 * 7850), str(2 * 4 * (7850 + 2 * 4)))


def test_clients_that_withhold_cost_a_byte_and_keep_what_they_had(launch: Launch) -> None:
    words = ("compression=importance", "compression.rule=gradient_norm", "compression.share=1", "strategy=scaffold")
    folder = launch(*words, "num_rounds=6", "num_clients=4")
    clients, metrics = table(folder, "clients"), table(folder, "metrics")
    held = [row for row in clients if row["status"] == "withheld"]
    assert held
    assert {row["bytes_up"] for row in held} == {"1"}
    assert {row["bytes_up"] for row in clients if row["status"] == "ok"} == {str(2 * 4 * 7850)}
    assert all(row["train_loss"] and row["num_examples"] for row in held)
    for number, row in enumerate(metrics[1:], start=1):
        mine = [client for client in clients if client["round"] == str(number)]
        assert int(row["clients_withheld"]) == sum(client["status"] == "withheld" for client in mine)
        assert row["aggregated"] == str(int(any(client["status"] == "ok" for client in mine)))
    assert any(row["aggregated"] == "1" for row in metrics)


def test_a_round_in_which_all_withhold_keeps_the_model(launch: Launch) -> None:
    words = ("compression=importance", "compression.threshold=1", "num_rounds=4", "num_clients=2")
    metrics = table(launch(*words), "metrics")[1:]
    # nothing agrees in every sign; but when the model has not moved, there is nothing to disagree with
    assert [row["aggregated"] for row in metrics] == ["1", "0", "1", "0"]
    assert metrics[1]["test_loss"] == metrics[0]["test_loss"] != metrics[2]["test_loss"]
    assert metrics[1]["train_loss"] == ""
    assert metrics[1]["bytes_up"] == "2"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("compression=quantize", "compression.bits=0"), "compression.bits=0: must be from 1 to 16"),
        (("compression=topk", "compression.fraction=2"), "compression.fraction=2: must be more than 0"),
        (("compression=quantize", "compression.bits=eight"), "compression.bits=eight: should be a valid integer"),
        (("compression=importance", "compression/down=quantize"), "compression/down: what is rounded at random hides"),
        (
            ("strategy=dp_client_fixed", "compression=topk"),
            "compression: may lengthen updates",
        ),
        (("compression=importance", "compression.rule=all"), "compression.rule=all: must be one of cmfl"),
    ],
)
def test_mistakes(launch: Launch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str) -> None:
    launch(*words, exit_code=2)
    assert line in capsys.readouterr().err


def test_who_diverges_is_named_even_where_the_codec_would_withhold_the_update(
    launch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish(self: LocalAlgorithm, turn: Turn) -> None:
        if (turn.client, turn.round) == (2, 2):
            turn.parameters.fill_(torch.nan)

    monkeypatch.setattr(LocalAlgorithm, "finish", finish)
    folder = launch("compression=importance", "compression.rule=cmfl", "num_rounds=3", "local.steps=1")
    assert "round 2: 1 of 10 clients failed; client 2: its largest change of a weight is nan" in capsys.readouterr().err
    assert [row["client"] for row in table(folder, "clients") if row["status"] == "failed"] == ["2"]
