"""Algorithms that leave each client a model, or layers, of its own. Two of three clients take part in a round.

Every client is also evaluated on what it holds out, with the model that it would use.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import Outcome, Real, agree, apart, federate, run
from safetensors.torch import load_file
from world import KINDS, Batch, Vector, Visit, World

Algorithm = Callable[[World, tuple[str, ...]], Outcome]
Second = Callable[[Vector, Vector, Batch], Vector]  # the Hessian at a point on a batch, times a vector

WORDS = ("clients_per_round=2", "evaluate.clients=true")


def must_use(real: Real, models: list[Vector]) -> None:
    """The clients are evaluated with these models, which are not all the same."""
    losses = [real.world.heldout(model, k)[0] for k, model in enumerate(models)]
    assert real.heldout_losses() == pytest.approx(losses, abs=1e-6)
    assert not torch.allclose(models[0], models[1])


@pytest.mark.parametrize("kind", KINDS)
def test_ditto(kind: str, tmp_path: Path) -> None:
    """Li et al. 2021, arXiv:2012.04221, algorithm 1: v = v - lr * (gradient at v + lambda * (v - w_t))."""
    real = run(tmp_path, kind, "strategy=ditto", "strategy.lambda=0.7", *WORDS)
    world = real.world

    def ditto(visit: Visit, w: Vector) -> Vector:
        sent, v = w.clone(), visit.kept.get("personal", w).clone()
        for batch in visit.batches():
            w = world.step(w, world.gradient(w, batch))
        for batch in visit.batches("personal"):
            v = world.step(v, world.gradient(v, batch) + 0.7 * (v - sent))
        visit.kept["personal"] = v
        return w

    reference = federate(world, ditto)
    agree(real, reference)
    must_use(real, [reference.kept[k].get("personal", reference.model) for k in world.clients])


def test_pfedme(tmp_path: Path) -> None:
    """Dinh et al. 2020, arXiv:2006.08848, algorithm 1: w = w - eta * lambda * (w - theta), with eta * lambda = 0.6.

    theta takes three steps towards the minimum of f(theta) + lambda/2 |theta - w|^2, from where it was.
    """
    words = ("strategy=pfedme", "strategy.lambda=2", "strategy.inner_steps=3", "strategy.rate=0.6")
    real = run(tmp_path, "mlp", *words, *WORDS)
    world = real.world

    def pfedme(visit: Visit, w: Vector) -> Vector:
        theta = w
        for batch in visit.batches():
            for _ in range(3):
                theta = world.step(theta, world.gradient(theta, batch) + 2 * (theta - w))
            w = world.step(w, w - theta, 0.6)
        visit.kept["personal"] = theta
        return w

    reference = federate(world, pfedme)
    agree(real, reference)
    must_use(real, [reference.kept[k].get("personal", reference.model) for k in world.clients])


@pytest.mark.parametrize("adaptive", [True, False])
def test_apfl(adaptive: bool, tmp_path: Path) -> None:
    """Deng et al. 2020, arXiv:2003.13461, algorithm 1; alpha by equation 10, once a round.

    v' = v - lr * alpha * g and alpha' = alpha - lr * <v - w, g>, with the gradient g at alpha * v + (1 - alpha) * w.
    """
    words = ("strategy=apfl", "strategy.alpha=0.3", f"strategy.adaptive={adaptive}")
    real = run(tmp_path, "mlp", *words, *WORDS)
    world = real.world

    def apfl(visit: Visit, w: Vector) -> Vector:
        v, alpha = visit.kept.get("personal", w), visit.kept.get("alpha", torch.tensor(0.3).double())
        for number, batch in enumerate(visit.batches()):
            mixed, share = world.gradient(alpha * v + (1 - alpha) * w, batch), alpha
            if adaptive and number == 0:
                alpha = (alpha - world.lr * (v - w) @ mixed).clamp(0, 1)
            v = world.step(v, share * mixed)
            w = world.step(w, world.gradient(w, batch))
        visit.kept.update(personal=v, alpha=alpha)
        return w

    reference = federate(world, apfl)
    agree(real, reference)
    w, kept = reference.model, [reference.kept[k] for k in world.clients]
    alphas = [float(own.get("alpha", 0.3)) for own in kept]
    assert (max(abs(alpha - 0.3) for alpha in alphas) > 1e-3) == adaptive
    must_use(real, [a * own.get("personal", w) + (1 - a) * w for a, own in zip(alphas, kept, strict=True)])


def perfedavg(world: World, alpha: float, second: Second) -> Outcome:
    """Fallah et al. 2020, arXiv:2002.07948, algorithm 1: w = w - lr * (1 - alpha * Hessian at w) * gradient at w'.

    w' = w - alpha * gradient at w. Each of the three has a batch of its own; `second` is the product.
    """

    def meta(visit: Visit, w: Vector) -> Vector:
        inner, third = (world.stream(visit.round, visit.client, purpose) for purpose in ("inner", "hessian"))
        for batch in visit.batches():
            outer = world.gradient(w - alpha * world.gradient(w, next(inner)), batch)
            w = world.step(w, outer - alpha * second(w, outer, next(third)))
        return w

    return federate(world, meta)


def adapted(world: World, w: Vector, client: int, alpha: float) -> Vector:
    """One step on the client's own data, before it is evaluated after the last round."""
    batch = next(world.stream(world.cfg.num_rounds, client, "adapt inner"))
    return w - alpha * world.gradient(w, batch)


def test_perfedavg_first_order(tmp_path: Path) -> None:
    real = run(tmp_path, "mlp", "strategy=perfedavg", "strategy.alpha=0.25", "strategy.order=first", *WORDS)
    world = real.world
    reference = perfedavg(world, 0.25, lambda w, outer, batch: torch.zeros_like(w))
    agree(real, reference)
    must_use(real, [adapted(world, reference.model, k, 0.25) for k in world.clients])


def test_perfedavg_hessian_free(tmp_path: Path) -> None:
    """Its differences are those of the paper, and near the exact product."""
    delta = 0.02
    words = ("strategy.alpha=0.25", "strategy.order=hessian_free", f"strategy.delta={delta}")
    real = run(tmp_path, "mlp", "strategy=perfedavg", *words, *WORDS)
    world = real.world

    def difference(w: Vector, outer: Vector, batch: Batch) -> Vector:
        ahead, behind = (world.gradient(w + way * delta * outer, batch) for way in (1, -1))
        return (ahead - behind) / (2 * delta)

    def exact(w: Vector, outer: Vector, batch: Batch) -> Vector:
        product: Vector = torch.autograd.functional.hvp(lambda v: world.loss(v, batch), w, outer)[1]
        return product

    reference, whole = perfedavg(world, 0.25, difference), perfedavg(world, 0.25, exact)
    agree(real, reference)
    agree(real, whole, bound=3e-6)  # the differences are off by delta^2 / 6 times a third derivative
    assert apart(whole.model, perfedavg(world, 0.25, lambda w, outer, batch: torch.zeros_like(w)).model) > 1e-2
    must_use(real, [adapted(world, reference.model, k, 0.25) for k in world.clients])


def stays(world: World, names: tuple[str, ...]) -> Vector:
    """Which numbers are of layers whose names begin so [P]."""
    return world.where(lambda name: name.startswith(names))


def own_layers(world: World, names: tuple[str, ...]) -> Outcome:
    """FedAvg of all but these layers, which stay with each client and are trained along.

    Arivazhagan et al. 2019, arXiv:1912.00818, algorithms 1 and 2 (the last layers); Li et al. 2021, arXiv:2102.07623,
    algorithm 1 (BatchNorm's).
    """
    mine = stays(world, names)

    def both(visit: Visit, w: Vector) -> Vector:
        w = torch.where(mine, visit.kept.get("model", world.first), w)
        for batch in visit.batches():
            w = world.step(w, world.gradient(w, batch))
        visit.kept["model"] = w
        return w

    return federate(world, both)


def fedrep(world: World, names: tuple[str, ...]) -> Outcome:
    """Collins et al. 2021, arXiv:2102.07078, algorithm 1: the head for the representation, then that for the head."""
    mine = stays(world, names)

    def one_after_the_other(visit: Visit, w: Vector) -> Vector:
        w = torch.where(mine, visit.kept.get("model", world.first), w)
        for batch in visit.batches("head"):
            w = world.step(w, world.gradient(w, batch) * mine)
        for batch in visit.batches():
            w = world.step(w, world.gradient(w, batch) * ~mine)
        visit.kept["model"] = w
        return w

    return federate(world, one_after_the_other)


@pytest.mark.parametrize(
    ("words", "kind", "names", "algorithm"),
    [
        (("strategy=fedper", "strategy.personal_layers=1"), "mlp", ("2.",), own_layers),
        (("strategy=fedper", "strategy.personal_layers=1"), "norm", ("3.",), own_layers),
        (("strategy=fedrep", "strategy.personal_layers=1"), "mlp", ("2.",), fedrep),
        (("strategy=fedrep", "strategy.personal_layers=1"), "norm", ("3.",), fedrep),
        (("strategy=fedbn",), "norm", ("1.",), own_layers),
        (("strategy=local_only",), "norm", ("",), own_layers),
    ],
)
def test_own_layers(
    words: tuple[str, ...], kind: str, names: tuple[str, ...], algorithm: Algorithm, tmp_path: Path
) -> None:
    real = run(tmp_path, kind, *words, *WORDS)
    world = real.world
    reference = algorithm(world, names)
    agree(real, reference)
    travels = load_file(real.folder / "model.safetensors")
    assert all(name.startswith(names) == (name not in travels) for name in world.shapes)
    assert all(
        name.startswith(tuple(f"model.{start}" for start in names)) for k in world.clients for name in real.kept(k)
    )
    mine = stays(world, names)
    own = [reference.kept[k].get("model", world.first) for k in world.clients]
    must_use(real, [torch.where(mine, model, reference.model) for model in own])
