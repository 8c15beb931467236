"""The ClientApp of plain_flower.py: in a module of its own, so that actors import it instead of unpickling it."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from works import LR, MODELS, MOMENTUM, WORKS

app = ClientApp()


@lru_cache
def load(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.load(folder / "train.x.npy")), torch.from_numpy(np.load(folder / "train.y.npy"))


@app.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    config = message.content.config_records["config"]
    work = WORKS[str(config["work"])]
    model = MODELS[work.task]()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    images, labels = load(Path(str(config["folder"])))
    client = int(context.node_config["partition-id"])
    rows = slice(client * work.samples, (client + 1) * work.samples)
    loader = DataLoader(TensorDataset(images[rows], labels[rows]), batch_size=work.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model((x.float() / 255 - 0.5) / 0.5), y)
        loss.backward()
        optimizer.step()
        if work.one_step:
            break
    metrics = MetricRecord({"train_loss": loss.item(), "num-examples": work.samples})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)
