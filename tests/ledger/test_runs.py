"""Runs with a ledger: the same results, the same ledger on every engine, and every model made again of the updates."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, digests, forked, long, often, table

from fl_bench.cli import dispatch
from fl_bench.config.compose import options
from fl_bench.ledger import chain, merkle

SMALL = ("task=mnist", "num_clients=5", "num_rounds=3", "local.steps=2", "data=synthetic", "data.num_samples=200")
SIGNED = "ledger=signed"


def verify(run: Path, *words: str) -> int:
    return dispatch(["verify", str(run), *words])


def ledger(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run / "ledger").iterdir()}


def block(run: Path, round: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "ledger" / f"{round}.json").read_text())
    return found


@pytest.mark.parametrize("strategy", often(options("strategy"), "fedavg", "fedbuff", "scaffold", "qfedavg", "krum"))
def test_results_are_the_same_and_models_are_made_again(launch: Launch, strategy: str) -> None:
    words = (*SMALL, f"strategy={strategy}")
    plain, signed = launch(*words), launch(*words, SIGNED)
    assert digests(signed) == digests(plain)
    assert not (plain / "ledger").exists()
    assert verify(signed) == 0


COMPOSED = [
    ("network=flaky", "network.dropout=0.4", "compression=topk", "attack=alie", "attack.clients=[0,3]"),
    ("robust=centered_clipping", "strategy=fedavgm", "clients_per_round=3", "compression/down=quantize"),
    ("robust=flame", "robust/before=bucketing", "attack=gaussian", "attack.clients=[1]"),
    ("robust=norm_bound", "strategy=scaffold", "weighting=uniform", "engine.packing=false"),
    ("strategy=dp_server_adaptive", "strategy.sampling=poisson"),
    ("compression=importance", "strategy=fedadam", "min_clients=4"),
    ("model=resnet8", "task=cifar", "strategy=fedbn", "num_rounds=2"),
    ("engine.vectorize=5", "strategy=feddyn"),
]


@pytest.mark.parametrize("words", COMPOSED, ids=lambda words: " ".join(words[:2]))
def test_ledgers_compose(launch: Launch, words: tuple[str, ...]) -> None:
    plain, signed = launch(*SMALL, *words), launch(*SMALL, *words, SIGNED)
    assert digests(signed) == digests(plain)
    assert verify(signed) == 0
