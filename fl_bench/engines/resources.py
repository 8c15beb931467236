"""How many workers there is room for."""

from math import ceil

import torch

from fl_bench.engines.base import Engine
from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer
from fl_bench.machine import num_cpus

CUDA_BYTES = 2**29  # about what a process takes for CUDA itself


def limit_gpus(engine: Engine) -> None:
    """Refuse a share of GPUs that are not there; without any, num_gpus=auto is 0."""
    wanted, num_gpus = engine.resources["num_gpus"], torch.cuda.device_count()
    if wanted == "auto":
        engine.resources["num_gpus"] = "auto" if num_gpus else 0
    elif wanted > num_gpus and not engine.elsewhere:
        raise ConfigError(
            f"engine.client_resources.num_gpus={wanted}: torch finds {num_gpus} GPUs on this machine; "
            "use 0 to train on the CPU"
        )


def share_gpus(engine: Engine, trainer: Trainer) -> None:
    """Replace num_gpus=auto by what a worker needs: one client's step is tried, and its peak of GPU memory measured."""
    resources = engine.resources
    need, free = _measure_step(trainer)
    need *= 1 if engine.vectorize in ("auto", "off") else engine.vectorize
    most_workers = int(num_cpus() / resources["num_cpus"])
    resources["num_gpus"] = fraction(need, free, torch.cuda.device_count(), most_workers)


def fraction(need: int, free: int, num_gpus: int, most_workers: int) -> float:
    """Each worker's share of a GPU where it needs `need` bytes and each GPU has `free`."""
    each = max(1, min(ceil(most_workers / num_gpus), free // need))  # workers on a GPU
    return 1 / each


def _measure_step(trainer: Trainer) -> tuple[int, int]:
    """Bytes of GPU memory that a process needs for a client's step, CUDA's own included, and that are free besides."""
    largest = int(trainer.partition.train_sizes.argmax())
    rows = trainer.algorithm.rows(trainer.partition, largest)[: trainer.local["batch_size"]]
    batch = trainer.task.gather(trainer.data.train, rows, trainer.device)
    model, start = trainer.flat.model.train(), trainer.flat.vector.clone()
    trainer.task.step(model, batch, trainer.task.optimizer(model, trainer.local), lambda: None)
    model.zero_grad()
    trainer.flat.reset(start)
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    return peak + CUDA_BYTES, torch.cuda.mem_get_info()[0]
