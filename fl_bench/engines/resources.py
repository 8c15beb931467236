"""How many workers there is room for."""

import torch
from omegaconf import DictConfig

from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer
from fl_bench.machine import num_cpus
from fl_bench.tasks.base import gather


def check_gpus(engine: DictConfig) -> None:
    """Refuse a share of GPUs that are not there; without any, num_gpus=auto is 0."""
    resources, num_gpus = engine.client_resources, torch.cuda.device_count()
    if resources.num_gpus == "auto":
        resources.num_gpus = "auto" if num_gpus else 0
    elif resources.num_gpus > num_gpus and engine.ray.address is None:
        raise ConfigError(
            f"engine.client_resources.num_gpus={resources.num_gpus}: torch finds {num_gpus} GPUs on this machine; "
            "use 0 to train on the CPU"
        )


def share_gpus(engine: DictConfig, trainer: Trainer) -> None:
    """Replace num_gpus=auto by what a worker needs: one client's step is tried, and its peak of GPU memory measured."""
    resources = engine.client_resources
    need, free = _measure_step(trainer)
    most_workers = int(num_cpus() / resources.num_cpus)
    resources.num_gpus = fraction(need, free, torch.cuda.device_count(), most_workers)


def fraction(need: int, free: int, num_gpus: int, most_workers: int) -> float:
    """Each worker's share of a GPU where it needs `need` bytes and each GPU has `free`."""
    workers = max(1, min(most_workers, num_gpus * max(1, free // need)))
    return min(1.0, num_gpus / workers)


def _measure_step(trainer: Trainer) -> tuple[int, int]:
    """Bytes of GPU memory that a process needs for a client's step, CUDA's own included, and that are free besides."""
    largest = int(trainer.partition.train_sizes.argmax())
    batch = gather(trainer.data.train, trainer.rows(largest)[: trainer.local["batch_size"]], trainer.device)
    model, start = trainer.flat.model.train(), trainer.flat.vector.clone()
    trainer.task.step(model, batch, trainer.task.optimizer(model, trainer.local), lambda: None)
    trainer.flat.reset(start)
    free, total = torch.cuda.mem_get_info()
    cuda = total - free - torch.cuda.memory_reserved()
    return cuda + torch.cuda.max_memory_reserved(), free
