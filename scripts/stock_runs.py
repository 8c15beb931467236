"""Flower's stock strategies beside ours in whole runs: numbers for docs/flower-differences.md, as in stock.py."""

import tempfile
from pathlib import Path

import pandas as pd
from sweeps import run_all, runs

SKEWED = "partition=dirichlet partition.alpha=0.1 num_rounds=1"


def ran(words: str) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """metrics.csv and clients.csv of each run of a sweep."""
    with tempfile.TemporaryDirectory(prefix="fl-bench-differences-") as folder:
        run_all([(words, Path(folder))])
        return [(pd.read_csv(run / "metrics.csv"), pd.read_csv(run / "clients.csv")) for run in runs(Path(folder))]


def batchnorm() -> str:
    words = "task=cifar model.norm=batch strategy=fedavgm num_rounds=2"
    targets = "strategy.server._target_=flwr.serverapp.strategy.FedAvgM,fl_bench.strategies.fedopt.FedAvgM"
    theirs, ours = (metrics["test_loss"].iloc[-1] for metrics, _ in ran(f"{words} stop_on_divergence=false {targets}"))
    return f"`{words}`: test_loss in round 2 is {theirs:.3f}; ours {ours:.3f}"


def losses() -> str:
    words = f"strategy=qfedavg {SKEWED} local.steps=null local.epochs="
    once, often = (clients for _, clients in ran(f"{words}1,10"))
    said = [f"{column.min():.2f} to {column.max():.2f}" for column in (once.train_loss, often.train_loss)]
    start = f"{once.train_start_loss.min():.2f} to {once.train_start_loss.max():.2f}"
    return f"`{words}1`: {said[0]} by client, with 10 epochs {said[1]}, where the model received has {start}"


def unequal_clients() -> str:
    words = f"strategy=dp_server_fixed {SKEWED}"
    ((_, clients),) = ran(words)
    times = clients["num_examples"].max() / clients["num_examples"].sum() * len(clients)
    return f"with the clients of `{words}`: {times:.1f} times too little"
