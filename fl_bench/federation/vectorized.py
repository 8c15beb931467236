"""Several clients at a time: their models stacked and trained as one batched program (torch.func).

Worth it where a step is so small that starting its operations is most of it, as on a GPU. The numbers are those of one
client at a time but for float32's rounding: a batched kernel adds in another order.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fl_bench import rng
from fl_bench.attacks.base import Attack
from fl_bench.data.arrays import batches
from fl_bench.errors import in_one_line
from fl_bench.federation.local import Trainer
from fl_bench.federation.trained import Trained
from fl_bench.metrics import Mean, merge
from fl_bench.privacy.base import Protection
from fl_bench.storage.states import State
from fl_bench.strategies.turn import Turn
from fl_bench.tasks import rates
from fl_bench.tasks.base import Batch, Metrics, Task
from fl_bench.tasks.examples import CLOSE, of_one

REAL = "real"  # the column of a batch that tells examples [K, B] from padding
warnings.filterwarnings("ignore", "There is a performance drop")  # torch takes attention on the CPU client by client
NOT_ELEMENTWISE = ("Adafactor", "LBFGS", "Muon", "SparseAdam")  # of torch.optim: a step looks at a tensor as a whole


class Turns(Turn):
    """The turns of K clients as one: what is [P] of one client is [K, P] here, and its number of steps is [K, 1].

    Those who take more steps come first. Who has finished is left out of further steps.
    """

    def __init__(
        self, trainer: Trainer, clients: Sequence[int], round: int, start: Tensor, config: Any, states: Sequence[State]
    ) -> None:
        self.trainer, self.clients = trainer, clients
        size, extras = trainer.flat.layout.size, trainer.algorithm.extras
        stack = nn.Parameter(start[:size].repeat(len(clients), 1))
        names = {name for state in states for name in state}
        local = rates.of_round(trainer.local, round)
        super().__init__(
            client=-1, round=round, task=trainer.task, model=nn.ParameterList([stack]),
            local={**local, "clip_norm": None},  # each client's gradient is clipped by itself, in `step`
            parameters=stack.data, start=start[:size], split=trainer.flat.layout.split, config=config,
            stream=lambda _: iter(()), batches_per_epoch=0, examples=lambda _: {},
            # Nothing kept yet is zero: an algorithm that sees a difference must not say that it can be stacked.
            state={name: torch.stack([s.get(name, torch.zeros(size)) for s in states]).to(start) for name in names},
            extras={name: start[size:].view(len(extras), size)[k].repeat(len(clients), 1)
                    for k, name in enumerate(extras)},
        )  # fmt: skip
        self.stack, self.clip_norm = stack, local["clip_norm"]
        self.steps: Any = torch.zeros(len(clients), 1, device=start.device)
        self.program = _program(trainer)

    def batches(self, amount: int | None = None, purpose: str = "batches") -> Iterator[Batch]:
        assert amount is None, "stacked clients train for a whole turn"
        rows = [self.trainer.rows(client, self.round) for client in self.clients]
        size = self.local["batch_size"]
        steps = [self.amount * (1 if self.local["steps"] else -(-len(mine) // size)) for mine in rows]
        orders = [
            batches(mine, size, rng.generator(self.trainer.seed, purpose, self.round, client))
            for client, mine in zip(self.clients, rows, strict=True)
        ]
        chances = [self.trainer.augment.chances(self.trainer.seed, purpose, self.round, k) for k in self.clients]
        for step in range(max(steps)):
            parts = [next(order) for order, last in zip(orders, steps, strict=True) if step < last]
            width = max(map(len, parts))
            padded = np.stack([np.resize(part, width) for part in parts])
            mine = [chance(len(part)) for chance, part in zip(chances, parts, strict=False)]
            drawn = np.concatenate([np.resize(some, (width, some.shape[1])) for some in mine])
            columns = self.trainer.examples(padded.ravel(), drawn, self.round)
            real = np.arange(width) < np.array([[len(part)] for part in parts])
            yield {name: column.view(*padded.shape, *column.shape[1:]) for name, column in columns.items()} | {
                REAL: torch.from_numpy(real).to(self.trainer.device)
            }

    def step(self, batch: Batch, correct: Callable[[], None] = lambda: None, optimizer: Any = None) -> Metrics:
        batch = dict(batch)
        real = batch.pop(REAL)
        active = len(real)
        losses, totals = self.program(self.split(self.stack[:active]), batch)
        (losses * real).sum(dim=1).div(real.sum(dim=1)).sum().backward()
        self.steps[:active] += 1
        correct()
        if self.clip_norm is not None:
            self.grad = self.grad * (self.clip_norm / (self.grad.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
        finished = self.parameters[active:].clone()
        self.optimizer.step()
        self.parameters[active:] = finished
        self.optimizer.zero_grad()
        counts = real.sum(dim=1)
        return {name: Mean((total * real).sum(dim=1).detach(), counts) for name, total in totals.items()}  # type: ignore

    @property
    def grad(self) -> Tensor:
        assert self.stack.grad is not None
        return self.stack.grad.clone()

    @grad.setter
    def grad(self, matrix: Tensor) -> None:
        self.stack.grad = matrix


def train_together(
    trainer: Trainer, clients: Sequence[int], round: int, payload: Any, config: Mapping[str, Any], states: list[State]
) -> dict[int, Trained]:
    """What Trainer.train gives for each of these clients, all of whom have examples."""
    sizes = {client: len(trainer.rows(client, round)) for client in clients}
    pairs = sorted(zip(clients, states, strict=True), key=lambda pair: -sizes[pair[0]])
    clients = [client for client, _ in pairs]
    turns = Turns(trainer, clients, round, torch.from_numpy(payload).to(trainer.device), config, [s for _, s in pairs])
    trainer.flat.reset(turns.start)
    trainer.flat.model.train()
    trainer.algorithm.begin(turns)
    steps = trainer.algorithm.train(turns)
    with torch.no_grad():
        trainer.algorithm.finish(turns)
    assert not turns.reply, "stacked clients have no reply of their own"
    extras = [turns.extras[name] for name in trainer.algorithm.extras]
    payloads = torch.cat([turns.parameters, *extras], dim=1).cpu().numpy()
    kept = {name: tensor.cpu() for name, tensor in turns.state.items()}
    by_client: list[list[Metrics]] = [[] for _ in clients]
    for step in steps:
        for name, mean in step.items():
            for mine, total, count in zip(by_client, mean.total.tolist(), mean.count.tolist(), strict=False):  # type: ignore
                mine.append({name: Mean(total, count)})
    trained = {}
    for k, client in enumerate(clients):
        state = {name: tensor[k].clone() for name, tensor in kept.items()}
        trained[client] = Trained(payloads[k], sizes[client], merge(by_client[k]), {}, int(turns.steps[k]), state)
    return trained


def why_not(trainer: Trainer) -> str | None:
    """What stands against training this task and strategy so, in a few words; None where nothing does."""
    model, algorithm, optimizer = trainer.flat.model, trainer.algorithm, trainer.local["optimizer"]["name"]
    task, attack, privacy = type(trainer.task), trainer.attack, type(trainer.privacy)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    reasons = {
        f"{type(algorithm).__name__} trains one client at a time": not vars(type(algorithm)).get("stacks", False),
        f"a step of {task.__name__} is not one loss and one optimiser": task.step is not Task.step,
        f"{optimizer} does not step number by number": optimizer in NOT_ELEMENTWISE,
        "batch norm counts over examples": any(isinstance(module, _BatchNorm) for module in model.modules()),
        "what travels is not what is trained": set(trainer.flat.layout.shapes) != trained or bool(trainer.private),
        f"{task.__name__} has an optimiser of its own": task.optimizer is not Task.optimizer,
        "local.decay=weights looks at a tensor as a whole": trainer.local["decay"] == "weights",
        "privacy takes other steps": privacy.begin is not Protection.begin,
        "privacy takes other batches": privacy.batches is not Protection.batches,
        "malicious clients take other steps": bool(attack.malicious) and type(attack).begin is not Attack.begin,
        "local.accumulate works on one batch in pieces": trainer.local["accumulate"] > 1,
        "local.precision=bf16 is of a client at a time": trainer.local["precision"] == "bf16",
    }
    found = next((reason for reason, holds in reasons.items() if holds), None)
    return found or _try(trainer)


def _try(trainer: Trainer) -> str | None:
    """Why the mean of the losses of two examples, stacked, has not the gradient of their loss; None where it has."""
    batch = trainer.task.gather(trainer.data.train, np.arange(2), trainer.device)
    trainer.flat.model.train()
    model, split = trainer.flat.model, trainer.flat.layout.split
    stack = trainer.flat.vector.repeat(2, 1).requires_grad_()
    stacked = {name: torch.stack([column, column]) for name, column in batch.items()}
    try:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        loss, metrics = trainer.task.objective(model, batch)
        plain = torch.cat([part.ravel() for part in torch.autograd.grad(loss, trained)])
        losses, _ = _program(trainer)(split(stack), stacked)
        (ours,) = torch.autograd.grad(losses.mean(dim=1).sum(), stack)
    except Exception as error:
        return f"torch.func says: {in_one_line(error)}"
    if any(mean.count != 2 for mean in metrics.values()):
        return "its metrics do not count examples"
    if (ours[1] - plain).norm() > CLOSE * plain.norm():
        return "the loss of a batch is not the mean of its examples' losses"
    return None


def _program(trainer: Trainer) -> Callable[[dict[str, Tensor], Batch], Any]:
    """From K models' tensors [K, ...] and columns [K, B, ...] to the losses and metrics [K, B] of each example."""
    one = of_one(trainer.task, trainer.flat.model)
    return cast(Callable[[dict[str, Tensor], Batch], Any], vmap(vmap(one, in_dims=(None, 0))))
