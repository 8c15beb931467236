"""Split learning over columns beside a bare PyTorch loop on the same batches: writes benchmarks/vertical.md.

    python benchmarks/vertical.py [--repeats N]

Five parties with a strip of 4,000 digits each, one process for all of them. The contenders take turns.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from bench import PYTHON, measure
from torch import nn
from torch.nn.functional import cross_entropy

from fl_bench.data.sources import digits
from fl_bench.machine import describe

HERE = Path(__file__).resolve().parent
SIZES = [(64, 32), (512, 256), (2048, 256)]  # the width of the bottom nets' inner layer, and of a batch
ROUNDS, PARTIES, EMBEDDING, LR = 4, 5, 16, 0.1


def bare(hidden: int, batch_size: int) -> None:
    """Bottom nets, embeddings up, gradients down, and nothing else."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = digits().train
    strips = np.array_split(np.arange(28), PARTIES)
    columns = [torch.from_numpy(np.ascontiguousarray(data["x"][..., strip])) for strip in strips]
    labels = torch.from_numpy(data["y"])
    bottoms = [
        nn.Sequential(nn.Flatten(), nn.Linear(28 * len(strip), hidden), nn.ReLU(), nn.Linear(hidden, EMBEDDING))
        for strip in strips
    ]
    top = nn.Sequential(nn.ReLU(), nn.Linear(EMBEDDING * PARTIES, 10))
    optimizers = [torch.optim.SGD(net.parameters(), LR) for net in (*bottoms, top)]
    for round in range(1, ROUNDS + 1):
        for rows in torch.randperm(len(labels)).split(batch_size):
            embeddings = [net(own[rows].float().div_(255)) for net, own in zip(bottoms, columns, strict=True)]
            sent = [embedding.detach().requires_grad_() for embedding in embeddings]
            for optimizer in optimizers:
                optimizer.zero_grad()
            cross_entropy(top(torch.cat(sent, 1)), labels[rows]).backward()
            for embedding, copy in zip(embeddings, sent, strict=True):
                embedding.backward(copy.grad)
            for optimizer in optimizers:
                optimizer.step()
        print(f"round {round}", flush=True)


def words(hidden: int, batch_size: int, folder: Path) -> list[str]:
    return [
        str(PYTHON), "-m", "fl_bench", "setting=vertical", "engine=inline", "model=mlp", f"model.hidden=[{hidden}]",
        f"num_clients={PARTIES - 1}", f"strategy.width={EMBEDDING}", f"local.batch_size={batch_size}",
        f"local.lr={LR}", f"num_rounds={ROUNDS}", f"evaluate.every={ROUNDS + 1}", "figures=false",
        "setting.alignment=known", f"hydra.run.dir={folder / 'run'}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bare", nargs=2, type=int)
    arguments = parser.parse_args()
    if arguments.bare:
        bare(*arguments.bare)
        return
    hardware = describe()["hardware"]
    lines = [
        "# Split learning over columns",
        "",
        f"Made by `python benchmarks/vertical.py` on {hardware['processor']}, one process. Medians of "
        f"{arguments.repeats} repeats of {ROUNDS} rounds, with the range; contenders took turns.",
        "",
        "| inner layer | batch | ms a batch: bare loop | fl-bench inline | by the bare loop's |",
        "|---|---|---|---|---|",
    ]
    for hidden, batch_size in SIZES:
        batches = -(-4000 // batch_size)
        times: list[tuple[float, float]] = []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as folder:
                loop = [str(PYTHON), str(HERE / "vertical.py"), "--bare", str(hidden), str(batch_size)]
                pair = (loop, words(hidden, batch_size, Path(folder)))
                times.append(tuple(1e3 / batches * measure(one, ROUNDS, memory=False).each for one in pair))  # type: ignore[arg-type]
        cells = [f"{statistics.median(t):.1f} ({min(t):.1f} to {max(t):.1f})" for t in zip(*times, strict=True)]
        ratio = statistics.median(ours / theirs for theirs, ours in times)
        lines.append(f"| {hidden} | {batch_size} | {' | '.join(cells)} | {ratio:.2f} |")
        print(lines[-1], file=sys.stderr)
    (HERE / "vertical.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
