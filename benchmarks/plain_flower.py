"""Plain Flower: what one writes from its PyTorch quickstart, a SuperNode for each client.

python benchmarks/plain_flower.py WORK FOLDER ROUNDS
"""

import os
import sys

from flower_client import app
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from works import MODELS, WORKS

key, folder, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
work = WORKS[key]
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    def show(round: int, arrays: ArrayRecord) -> None:
        if round:
            print(f"round {round}", flush=True)

    strategy = FedAvg(
        fraction_train=work.cohort / work.clients, fraction_evaluate=0, min_train_nodes=work.cohort,
        min_available_nodes=work.clients,
    )  # fmt: skip
    strategy.start(
        grid=grid, initial_arrays=ArrayRecord(MODELS[work.task]().state_dict()), num_rounds=rounds, evaluate_fn=show,
        train_config=ConfigRecord({"work": key, "folder": folder}),
    )  # fmt: skip


if __name__ == "__main__":
    run_simulation(
        server_app=server_app,
        client_app=app,
        num_supernodes=work.clients,
        # Ray's "local" address, since it waits for ever where a firewall closes the others.
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
            "init_args": {"address": "local", "num_cpus": len(os.sched_getaffinity(0))},
        },
    )
