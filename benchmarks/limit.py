"""The limit: as many processes as there are processors train the clients' models in bare PyTorch and average in memory.

python benchmarks/limit.py WORK FOLDER ROUNDS [PROCESSES]
"""

import os
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from works import MODELS, WORKS, Work, train


def worker(index: int, count: int, work: Work, folder: Path, rounds: int, shared: torch.Tensor, gate: Barrier) -> None:
    """Train every count-th client of a cohort; row `index` of `shared` is this worker's sum, the last is the model."""
    torch.set_num_threads(1)
    images, labels = (np.load(folder / f"train.{name}.npy", mmap_mode="r") for name in "xy")
    model = MODELS[work.task]()
    for round in range(1, rounds + 1):
        cohort = np.random.default_rng(round).choice(work.clients, work.cohort, replace=False)
        gate.wait()
        total = torch.zeros_like(shared[index])
        for client in cohort[index::count]:
            rows = slice(client * work.samples, (client + 1) * work.samples)
            vector_to_parameters(shared[-1].clone(), model.parameters())
            train(model, images[rows], labels[rows], work, np.random.default_rng((round, client)))
            total += parameters_to_vector(model.parameters()).detach()
        shared[index] = total
        gate.wait()


def main() -> None:
    work, folder, rounds = WORKS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
    count = int(sys.argv[4]) if len(sys.argv) > 4 else len(os.sched_getaffinity(0))
    torch.manual_seed(0)
    start = parameters_to_vector(MODELS[work.task]().parameters()).detach()
    shared = torch.zeros(count + 1, len(start)).share_memory_()
    shared[-1] = start
    gate = mp.get_context("fork").Barrier(count + 1)
    context = mp.get_context("fork")
    others = [context.Process(target=worker, args=(k, count, work, folder, rounds, shared, gate)) for k in range(count)]
    for process in others:
        process.start()
    for round in range(1, rounds + 1):
        gate.wait()
        gate.wait()
        shared[-1] = shared[:-1].sum(dim=0) / work.cohort
        print(f"round {round}", flush=True)
    for process in others:
        process.join()


if __name__ == "__main__":
    main()
