"""How many workers there is room for."""

import torch
from omegaconf import DictConfig

from fl_bench.errors import ConfigError
from fl_bench.machine import num_cpus


def resolve_gpus(engine: DictConfig) -> None:
    """Replace num_gpus=auto by each worker's share of the GPUs, and refuse a share of GPUs that are not there."""
    resources, num_gpus = engine.client_resources, torch.cuda.device_count()
    if resources.num_gpus == "auto":
        resources.num_gpus = num_gpus / max(1, int(num_cpus() / resources.num_cpus))
    if resources.num_gpus > num_gpus and engine.ray.address is None:
        raise ConfigError(
            f"engine.client_resources.num_gpus={resources.num_gpus}: torch finds {num_gpus} GPUs on this machine; "
            "use 0 to train on the CPU"
        )
