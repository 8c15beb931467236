"""An app for Flower's own SuperNodes: as much work as a site of the measured deployment has, on random rows.

The server writes when each round has ended to the file that STOCK_APP_TIMES names.
"""

import os
import time
from itertools import pairwise

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

server_app = ServerApp()
client_app = ClientApp()


def model(large: bool) -> nn.Module:
    sizes = [784, 5000, 4200, 10] if large else [784, 10]
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    def ended(round: int, arrays: ArrayRecord) -> None:
        with open(os.environ["STOCK_APP_TIMES"], "a") as file:
            file.write(f"{time.time()}\n")

    nodes, config = int(context.run_config["nodes"]), context.run_config
    strategy = FedAvg(fraction_evaluate=0, min_train_nodes=nodes, min_available_nodes=nodes)
    arrays = ArrayRecord(model(bool(config["large"])).state_dict())
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]), evaluate_fn=ended)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    large = bool(context.run_config["large"])
    net = model(large)
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(1 if large else 4):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.rand(32, 784)), torch.randint(10, (32,)))
        loss.backward()
        optimizer.step()
    metrics = MetricRecord({"train_loss": loss.item(), "num-examples": 128})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)
