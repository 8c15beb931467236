"""Make docs/communication.md and its figures: accuracy against bytes, and time to target when clients drop out.

make communication  (or .venv/bin/python scripts/make_communication.py [FOLDER OF EARLIER RUNS])
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from sweeps import HERE, SEEDS, markdown, plus_minus, run_all, runs

from fl_bench.results.figures import finish

PAGE, IMAGES = HERE / "docs" / "communication.md", HERE / "docs" / "images"
ACCURACY = "test_accuracy"

TASKS = {
    "cifar": "digits on photos as small colour images (not CIFAR-10), 62,006 parameters, 30 rounds",
    "imdb": "a tiny ALBERT on generated reviews, 10 rounds",
}
COMPRESSIONS = {
    "none": "compression=none",
    "fp16": "compression=fp16",
    "quantize, 8 bits": "compression=quantize",
    "quantize, 8 bits, both ways": "compression=quantize compression/down=quantize",
    "quantize, 2 bits": "compression=quantize compression.bits=2 compression.block=256",
    "topk, 0.1": "compression=topk compression.fraction=0.1",
    "topk, 0.01": "compression=topk",
    "random_mask, 0.1": "compression=random_mask",
    "sketch, 0.5 of 4 bits": "compression=sketch",
    "lowrank, rank 2": "compression=lowrank",
    "cmfl": "compression=importance",
    "gradient_norm": "compression=importance compression.rule=gradient_norm",
    "esgd, 0.1": "compression=importance compression.rule=esgd",
}

TARGET = 0.85
DROPOUTS = (0.0, 0.3, 0.6)
FLAKY = (
    "task=mnist partition=dirichlet partition.alpha=0.1 num_clients=50 clients_per_round=10 local.steps=20",
    f"targets=[{TARGET}] network=heterogeneous",
)
STRATEGIES = {  # 1,000 answers at most
    "fedavg": "strategy=fedavg num_rounds=100",
    "fedprox": "strategy=fedprox strategy.mu=0.1 num_rounds=100",
    "fedbuff": "strategy=fedbuff num_rounds=250",
}


class Job(NamedTuple):
    folder: str
    words: str


def compression_job(task: str, name: str) -> Job:
    return Job(f"{task}/{name}", f"task={task} {COMPRESSIONS[name]}")


def dropout_job(strategy: str, dropout: float) -> Job:
    return Job(f"{strategy}/{dropout}", f"{' '.join(FLAKY)} {STRATEGIES[strategy]} network.dropout={dropout}")


def read(folder: Path, job: Job) -> pd.DataFrame:
    """The metrics of a job's runs, with their seed and what had been sent by then."""
    tables = []
    for run in runs(folder / job.folder):
        table = pd.read_csv(run / "metrics.csv").assign(seed=json.loads((run / "run.json").read_text())["seed"])
        for way in ("up", "down"):
            table[f"mb_{way}"] = table[f"bytes_{way}"].fillna(0).cumsum() / 1e6
        tables.append(table)
    return pd.concat(tables)


def costs(folder: Path, job: Job) -> pd.DataFrame:
    """What it cost to reach the target, a row for each run that did."""
    records = [json.loads((run / "run.json").read_text())["targets"] for run in runs(folder / job.folder)]
    columns = ["round", "virtual_seconds", "bytes_down", "bytes_up"]
    return pd.DataFrame([cost for record in records for cost in record.values() if cost], columns=columns)


def report_compression(folder: Path, task: str) -> str:
    """One task's part of the page; draws its figure too."""
    tables = {name: read(folder, compression_job(task, name)) for name in COMPRESSIONS}
    last = {name: table.groupby("seed").last() for name, table in tables.items()}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (name, table) in enumerate(tables.items()):
        mean = table[table["round"] > 0].groupby("round")[["mb_up", ACCURACY]].mean()
        axes.plot(mean["mb_up"], mean[ACCURACY], label=name, color=f"C{index % 10}", linestyle=("-", "--")[index // 10])
    axes.set_xscale("log")
    finish(axes, "MB sent up, all clients together", ACCURACY)
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(IMAGES / f"communication-{task}.png", dpi=110)
    rows = []
    for name, end in last.items():
        sums = tables[name][["clients_withheld", "clients_sampled"]].sum()
        withheld = sums["clients_withheld"] / sums["clients_sampled"]
        accuracy = plus_minus(end[ACCURACY].mean(), end[ACCURACY].std())
        up, down = end["mb_up"].mean(), end["mb_down"].mean()
        less = f"{last['none']['mb_up'].mean() / up:.2f}x"
        rows.append([name, accuracy, f"{up:.2f}", less, f"{down:.2f}", f"{withheld:.0%}" if withheld else ""])
    header = ["compression", f"`{ACCURACY}`", "MB up", "less up than none", "MB down", "updates withheld"]
    figure_line = f"![accuracy against bytes](images/communication-{task}.png)"
    return "\n".join([f"### `task={task}`: {TASKS[task]}", "", *markdown(header, rows), "", figure_line])


def report_dropout(folder: Path) -> str:
    """Rounds, time and bytes to the target, by strategy and dropout; draws accuracy over virtual time."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    rows = []
    for axes, dropout in zip(figure.subplots(1, len(DROPOUTS), sharey=True), DROPOUTS, strict=True):
        for colour, strategy in enumerate(STRATEGIES):
            table = read(folder, dropout_job(strategy, dropout))
            for _, run in table.groupby("seed"):
                axes.plot(run["virtual_seconds"], run[ACCURACY], color=f"C{colour}", alpha=0.5, linewidth=1)
            axes.plot([], [], color=f"C{colour}", label=strategy)
            accuracy = table.groupby("seed")[ACCURACY].last()
            reached = costs(folder, dropout_job(strategy, dropout))
            mean = reached.mean()
            megabytes = (mean["bytes_up"] + mean["bytes_down"]) / 1e6
            numbers = [f"{mean['round']:.0f}", f"{mean['virtual_seconds']:.1f}", f"{megabytes:.1f}"]
            numbers = numbers if len(reached) else ["never"] * len(numbers)
            seeds = f"{len(reached)} of {len(accuracy)}"
            rows.append([dropout, strategy, *numbers, seeds, plus_minus(accuracy.mean(), accuracy.std())])
        axes.axhline(TARGET, color="grey", linewidth=0.8, linestyle=":")
        axes.set_title(f"dropout {dropout}")
        axes.set_xscale("log")
        finish(axes, "virtual seconds", ACCURACY)
    axes.legend()
    figure.savefig(IMAGES / "communication-dropout.png", dpi=110)
    header = ["dropout", "strategy", f"rounds to {TARGET}", "virtual seconds", "MB up and down", "reached by"]
    header.append(f"`{ACCURACY}` at the end")
    figure_line = "![accuracy over virtual time](images/communication-dropout.png)"
    return "\n".join([*markdown(header, rows), "", figure_line])


INTRODUCTION = """# What travels, and who drops out

Made by `make communication`, which writes this page and its figures anew. Three seeds; ± is their standard deviation.
Small tasks and three seeds show directions and orders of magnitude, not what a large model would do.

## Accuracy against bytes

FedAvg with ten clients, all of them in every round, with the defaults of each task; every row with the words
`fl-bench task=... compression=...` and the parameters of its yaml unless said. Bytes are those of the encoded payloads,
values, indices and scales, of all clients together.
"""

DROPOUT = f"""## Time to target when clients drop out

Fifty clients with skewed labels, ten at a time, on devices and connections of unequal speed:

    fl-bench {FLAKY[0]} \\
        {FLAKY[1]} strategy=... network.dropout=...

A round of FedAvg and FedProx waits for the slowest of ten clients, and learns that one has dropped when it would have
answered. FedBuff makes a round of every four answers, so its rounds are not theirs: it gets 250 of them where they get
100, which is as many answers as long as nobody drops. FedProx has mu = 0.1. Numbers are means over the seeds that
reached the target.
"""


def main() -> None:
    jobs = [compression_job(task, name) for task in TASKS for name in COMPRESSIONS]
    jobs += [dropout_job(strategy, dropout) for strategy in STRATEGIES for dropout in DROPOUTS]
    with tempfile.TemporaryDirectory(prefix="fl-bench-communication-") as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        if len(sys.argv) == 1:
            seeds = ",".join(map(str, SEEDS))
            run_all([(f"{job.words} seed={seeds}", folder / job.folder) for job in jobs])
        parts = [INTRODUCTION, *(report_compression(folder, task) for task in TASKS), DROPOUT, report_dropout(folder)]
    PAGE.write_text("\n\n".join(part.strip() for part in parts) + "\n")


if __name__ == "__main__":
    main()
