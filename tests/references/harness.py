"""How the package is compared with references of its algorithms: in float64, and written from the papers.

`run` runs an experiment as a user's is run, in float32, and gives the `World` in which it took place: the first model,
the rows of three unequal clients, and the order of batches, which is part of what a seed promises. A reference uses
nothing else of the package. It returns an `Outcome`, which `agree` compares with all that the run has left.

A reference of another rule for the server is a function of the models of the round's clients [K, P], their numbers of
examples [K], and a dict that is the rule's own from round to round. In there, `state["sent"]` [P] is what the clients
started from, and `state["parameters"]`, bool [P], says which numbers are no statistics of BatchNorm:

    def with_momentum(models: Vector, weights: Vector, state: State) -> Vector:
        "Hsu et al. 2019, arXiv:1909.06335, section 4.3."
        average = mean(models, weights, state)
        state["velocity"] = 0.8 * state.get("velocity", 0) + (state["sent"] - average)
        return torch.where(state["parameters"], state["sent"] - 0.5 * state["velocity"], average)

    @pytest.mark.parametrize("kind", KINDS)
    def test_fedavgm(kind: str, tmp_path: Path) -> None:
        real = run(tmp_path, kind, "strategy=fedavgm", "strategy.momentum=0.8", "strategy.lr=0.5")
        agree(real, federate(real.world, rule=with_momentum))

What the server hears of clients beside their models, their client function may note (see `test_loadaboost`).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from conftest import compose, own_task, table
from safetensors.torch import load_file
from torch import Tensor
from world import Vector, Visit, World

from fl_bench.build import build
from fl_bench.engines.base import Engine
from fl_bench.observers.recorder import Recorder
from fl_bench.runs import execute
from fl_bench.storage.checkpoint import Store

State = dict[str, Any]
Client = Callable[[Visit, Vector], Vector]  # from what the server has sent to what it is sent [P]
Rule = Callable[[Vector, Vector, State], Vector]  # from the clients' models and weights to the new model

BOUND = 1e-6  # what float32 may lose of weights about 1
WORDS = (
    *own_task("world.Tiny"), "partition=natural", "partition.holdout=0.2", "num_clients=3", "num_rounds=3",
    "local.steps=null", "local.epochs=2", "local.batch_size=5", "local.lr=0.1", "evaluate.every=3", "seed=5",
)  # fmt: skip


class Outcome(NamedTuple):
    """What a reference says: the last global model, and what clients keep, by client and name.

    A client's own values for layers of the model are kept as "model", a whole vector.
    """

    model: Vector
    kept: Mapping[int, Mapping[str, Vector]]


def federate(
    world: World,
    client: Client | None = None,
    rule: Rule | None = None,
    cohort: Callable[[int], list[int]] | None = None,
) -> Outcome:
    """FedAvg (McMahan et al. 2017, arXiv:1602.05629, algorithm 1), or with another client, server rule or sample."""
    client, rule, cohort = client or descend, rule or mean, cohort or world.cohort
    w, state = world.first, State(parameters=world.parameters)
    kept: defaultdict[int, dict[str, Vector]] = defaultdict(dict)
    for round in range(1, world.cfg.num_rounds + 1):
        state["sent"], clients = w, cohort(round)
        models = torch.stack([client(Visit(world, round, k, kept[k]), w.clone()) for k in clients])
        w = rule(models, torch.tensor([world.weight(k) for k in clients]).double(), state)
    return Outcome(w, kept)


def mean(models: Vector, weights: Vector, state: State) -> Vector:
    """Weighted by examples."""
    return weights @ models / weights.sum()


def descend(visit: Visit, w: Vector) -> Vector:
    """Stochastic gradient descent from w [P]."""
    for batch in visit.batches():
        w = visit.world.step(w, visit.world.gradient(w, batch))
    return w


class Real(NamedTuple):
    """A run of the package, over and written."""

    folder: Path
    world: World

    def rows(self, name: str) -> list[dict[str, str]]:
        """Those of the last round."""
        return [row for row in table(self.folder, name) if row["round"] == str(self.world.cfg.num_rounds)]

    def heldout_losses(self) -> list[float]:
        """By client, of the model that it would use."""
        return [float(row["client_loss"]) for row in self.rows("clients")]

    def kept(self, client: int) -> dict[str, Tensor]:
        """What a client keeps, by name."""
        files = sorted(self.folder.glob(f"state/{client}/*"), key=lambda file: int(file.stem))
        return load_file(files[-1]) if files else {}


def run(folder: Path, kind: str, *words: str) -> Real:
    """An experiment on a model of this kind, in this process; of words for the same key the last wins."""
    known = {word.partition("=")[0]: word for word in (*WORDS, f"+task.kind={kind}", *words)}
    cfg = compose(*known.values())
    results, scratch = folder / "run", folder / "scratch"
    results.mkdir(parents=True)
    scratch.mkdir()
    store = Store(results, 0)
    execute.run(cfg, build(cfg.engine, Engine), scratch, store, None, lambda made: [Recorder(store.tables)])
    return Real(results, World(cfg, scratch / "data"))


def agree(real: Real, reference: Outcome, bound: float = BOUND) -> None:
    """All numbers that a run leaves are those of a reference, which is far from FedAvg without anything."""
    world, plain = real.world, federate(real.world).model
    said = [reference.model, *(v for kept in reference.kept.values() for v in kept.values() if v.shape == plain.shape)]
    assert max(apart(vector, plain) for vector in said) > 1000 * BOUND, "the setting is neutral: this shows nothing"
    assert reference.model.isfinite().all()
    tensors = load_file(real.folder / "model.safetensors")
    expected = world.split(reference.model)
    far = {name: apart(tensor, expected[name]) for name, tensor in tensors.items() if tensor.is_floating_point()}
    for client in world.clients:
        found, wanted = real.kept(client), dict(reference.kept.get(client, {}))
        assert {name.partition(".")[0] for name in found} == wanted.keys()
        if "model" in wanted:
            wanted |= {f"model.{name}": tensor for name, tensor in world.split(wanted["model"]).items()}
        far |= {f"{name} of client {client}": apart(tensor, wanted[name]) for name, tensor in found.items()}
    assert far
    wrong = {name: distance for name, distance in far.items() if not distance <= bound}
    assert not wrong, wrong


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference between two numbers; b may have NaN where a reference has nothing to say."""
    return float((a.double() - b).abs()[~b.isnan()].max())
