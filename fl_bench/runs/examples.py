"""Whether clients can be trained on their examples, one batch after another."""

import copy

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer
from fl_bench.strategies.base import LocalAlgorithm


def check_augment(trainer: Trainer) -> None:
    """Raise ConfigError where the clients' training images cannot be changed as `augment` says."""
    if not trainer.augment.draws:
        return
    batch = trainer.task.gather(trainer.data.train, np.arange(1), trainer.device)
    images, channels = batch.get("x"), trainer.augment.channels
    if images is None or images.dtype != torch.uint8 or images.ndim != 4:
        wish = f"needs images, a column x of uint8 [N, channels, height, width], and the data has {', '.join(batch)}"
        raise ConfigError(f"augment: {wish}; use augment=none")
    if channels and images.shape[1] not in channels:
        wish = f"needs images of {' or '.join(map(str, channels))} channels, and these have {images.shape[1]}"
        raise ConfigError(f"augment: {wish}; use augment=none or flip_crop")


def check_batches_of_one(trainer: Trainer) -> None:
    """Raise ConfigError where a client's turn has a batch of one example, and the model cannot train on it."""
    if trainer.weighting.hidden:  # at its site such a client fails, and says why
        return
    size, sizes, root = trainer.local["batch_size"], trainer.partition.train_sizes, trainer.root_rows
    sizes = np.append(sizes, len(root)) if len(root) else sizes  # the server trains as a client does
    last = -(-sizes // size)  # the number of the batch that ends an epoch
    alone = np.count_nonzero((sizes > 0) & ((sizes - 1) % size == 0) & (last <= (trainer.local["steps"] or last)))
    model, usual = trainer.flat.model, type(trainer.algorithm).rows is LocalAlgorithm.rows and trainer.task.one_loss
    if not (alone and usual) or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    try:
        example = trainer.task.gather(trainer.data.train, np.arange(1), trainer.device)
        trainer.task.objective(copy.deepcopy(model).train(), example)  # a copy, as norms count in training
    except ValueError as error:
        wish = "have a batch of one, of which BatchNorm knows no variance; take another, or model.norm=group"
        raise ConfigError(f"local.batch_size={size}: {alone} of {len(sizes)} clients {wish}") from error
