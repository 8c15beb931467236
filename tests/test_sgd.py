"""Our SGD is torch.optim's."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from fl_bench.tasks.sgd import SGD

OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.5, "dampening": 0.3, "weight_decay": 0.01},
]


def trained(kind: Any, **options: Any) -> torch.Tensor:
    """All parameters after five steps."""
    torch.manual_seed(0)
    first, second = nn.Linear(7, 5), nn.Linear(5, 5)
    optimizer = kind([*first.parameters(), *second.parameters()], lr=0.1, **options)
    for _ in range(5):
        optimizer.zero_grad()
        second(first(torch.randn(4, 7))).square().mean().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in (*first.parameters(), *second.parameters())])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_to_the_bit_torchs_fused_and_but_for_rounding_its_plain_one(options: dict[str, Any]) -> None:
    ours = trained(SGD, **options)
    assert torch.equal(ours, trained(torch.optim.SGD, fused=True, **options))
    assert (ours - trained(torch.optim.SGD, **options)).abs().max() < 1e-6
    assert (ours - trained(SGD, momentum=0.1)).abs().max() > 1e-3  # the options matter


def test_a_layer_may_join_later() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SGD([a, b], lr=1, momentum=0.5)
    for used in ([a], [a, b], [b]):
        optimizer.zero_grad()
        sum(used, torch.zeros(1)).backward()
        optimizer.step()
    assert (a.item(), b.item()) == (1 - 1 - 1.5, 1 - 1 - 1.5)


@pytest.mark.parametrize("options", [{"momentum": -1}, {"weight_decay": -1}, {"nesterov": True}])
def test_refuses_what_torch_refuses(options: dict[str, Any]) -> None:
    for kind in (SGD, torch.optim.SGD):
        with pytest.raises(ValueError, match=r"momentum|weight_decay|Nesterov"):
            kind(nn.Linear(1, 1).parameters(), lr=0.1, **options)


def test_a_process_that_trains_with_it_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch; from fl_bench.tasks.sgd import SGD; model = torch.nn.Linear(1, 1)\n"
        "optimizer = SGD(model.parameters(), 0.1); model(torch.ones(1)).backward(); optimizer.step()\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
