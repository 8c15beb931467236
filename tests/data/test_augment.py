"""Augmentation: by hand, the same in any batch, on any engine and after any interruption, and only where it belongs."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Launch, compose, digests, forked, long
from torch import Tensor

from fl_bench.build import build
from fl_bench.data.augment import Augment, Color, FlipCrop, RandAugment
from fl_bench.federation.local import Trainer
from fl_bench.federation.vectorized import Turns
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task

SMALL = ("task=cifar", "data=synthetic", "data.num_samples=120", "num_clients=3", "num_rounds=2", "local.batch_size=8")
ALL = ("flip_crop", "color", "randaugment")
SQUARE = torch.tensor([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]], dtype=torch.uint8)
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (14, 3, 32, 32), dtype=np.uint8))


def chances(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def make(tmp_path: Path, *words: str) -> Trainer:
    folder = tmp_path / f"data of {' '.join(words)}"
    folder.mkdir()
    cfg = compose(*SMALL, *words)
    return prepare(cfg, build(cfg.task, Task), folder)


def test_flips_by_hand() -> None:
    flip = FlipCrop(p=0.5, padding=0)
    both = flip(SQUARE.repeat(2, 1, 1, 1), chances([0.49, 0.9, 0.9], [0.5, 0.1, 0.1]))
    assert both.tolist() == [[[[3, 2, 1], [6, 5, 4], [9, 8, 7]]], [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]]


def test_crops_by_hand() -> None:
    crop = FlipCrop(p=0.5, padding=1)  # offsets 0, 1 and 2 are equally likely
    images = crop(SQUARE.repeat(3, 1, 1, 1), chances([0.9, 0.0, 0.99], [0.9, 0.34, 0.65], [0.1, 0.67, 0.3]))
    assert images[0].tolist() == [[[0, 0, 0], [2, 3, 0], [5, 6, 0]]]
    assert images[1].tolist() == [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]
    assert images[2].tolist() == [[[0, 6, 5], [0, 9, 8], [0, 0, 0]]]  # mirrored, then moved


def test_colours_by_hand() -> None:
    grey = torch.tensor([[[[100, 200]]]], dtype=torch.uint8)
    same = [0.5, 0.5, 0.5]
    change = Color(brightness=0.5, contrast=1.0, saturation=1.0)
    assert change(grey, chances(same)).tolist() == [[[[100, 200]]]]
    assert change(grey, chances([0.0, 0.5, 0.5])).tolist() == [[[[50, 100]]]]
    assert change(grey, chances([0.75, 0.5, 0.5])).tolist() == [[[[125, 250]]]]
    assert change(grey, chances([0.5, 0.0, 0.5])).tolist() == [[[[150, 150]]]]  # the mean
    assert change(grey, chances([0.5, 0.75, 0.0])).tolist() == [[[[75, 225]]]]  # grey has no saturation to lose
    red = torch.tensor([[[[256 - 1]], [[0]], [[0]]]], dtype=torch.uint8)
    assert change(red, chances([0.5, 0.5, 0.0])).flatten().tolist() == [76, 76, 76]  # 0.299 x 255
    assert change(red, chances([0.5, 0.5, 0.25])).flatten().tolist() == [166, 38, 38]  # half way


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_randaugment_is_torchvisions(magnitude: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.transforms.v2 import RandAugment as Torchvisions

    ours, theirs = RandAugment(num_ops=1, magnitude=magnitude), Torchvisions(num_ops=1, magnitude=magnitude)
    for number in range(14):
        for sign in (0.2, 0.7):
            monkeypatch.setattr(torch, "randint", lambda *_, number=number: torch.tensor(number))
            monkeypatch.setattr(torch, "rand", lambda *_, sign=sign: torch.tensor(sign))
            mine = ours(PIXELS[:2], chances(*2 * [[(number + 0.5) / 14, sign]]))
            assert (mine != theirs(PIXELS[:2])).float().mean() < 0.01, (number, sign)  # ties, of angles in float32


@pytest.mark.parametrize("augment", [FlipCrop(0.5, 4), Color(0.4, 0.4, 0.4), RandAugment(2, 9)], ids=ALL)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_an_image_is_changed_in_the_same_way_in_any_batch(augment: Augment, layout: torch.memory_format) -> None:
    images, before = PIXELS.contiguous(memory_format=layout), PIXELS.clone()
    draw = torch.from_numpy(np.random.default_rng(1).random((len(images), augment.draws)))
    whole = augment(images, draw)
    assert whole.dtype == torch.uint8
    assert whole.is_contiguous(memory_format=layout)
    assert (images == before).all()
    assert (whole != images).flatten(1).any(1).sum() > 7
    for size in (1, 5):
        parts = [augment(images[k : k + size], draw[k : k + size]) for k in range(0, len(images), size)]
        assert torch.cat(parts).equal(whole)


def test_the_numbers_follow_from_seed_purpose_round_and_client_and_go_on_from_batch_to_batch() -> None:
    def first(*address: int | str, sizes: tuple[int, ...] = (6,)) -> list[list[float]]:
        take = FlipCrop(0.5, 4).chances(*address)  # type: ignore[arg-type]
        return [row for size in sizes for row in take(size).tolist()]

    here = first(0, "batches", 1, 2)
    assert here == first(0, "batches", 1, 2, sizes=(1, 3, 2))
    others = [(1, "batches", 1, 2), (0, "adapt batches", 1, 2), (0, "batches", 2, 2), (0, "batches", 1, 1)]
    assert all(first(*address)[0] != here[0] for address in others)


def batches_of(trainer: Trainer, count: int, purpose: str = "batches", prefix: str = "") -> Tensor:
    start = torch.from_numpy(trainer.untrained())
    turn = trainer._turn(prefix, 1, 1, trainer.rows(1, 1), start, {}, {})
    return torch.cat([turn.draw(purpose)["x"] for _ in range(count)])


@pytest.mark.parametrize("name", ALL)
def test_the_batch_size_does_not_matter_and_every_purpose_is_augmented(tmp_path: Path, name: str) -> None:
    plain, eight, four = (
        make(tmp_path, f"augment={augment}", f"local.batch_size={size}")
        for augment, size in (("none", 8), (name, 8), (name, 4))
    )
    for purpose, prefix in (("batches", ""), ("second model", ""), ("adapt", "adapt ")):
        ours = batches_of(eight, 2, purpose, prefix)
        assert ours.equal(batches_of(four, 4, purpose, prefix))
        assert not ours.equal(batches_of(plain, 2, purpose, prefix))


def test_a_stack_of_clients_gets_the_images_that_each_would_get(tmp_path: Path) -> None:
    trainer = make(tmp_path, "augment=flip_crop", "partition=linear", "local.steps=4")
    clients = sorted(range(3), key=lambda client: -len(trainer.rows(client, 1)))
    start = torch.from_numpy(trainer.untrained())
    stacked = list(Turns(trainer, clients, 1, start, {}, [{}, {}, {}]).batches())
    for place, client in enumerate(clients):
        alone = trainer._turn("", client, 1, trainer.rows(client, 1), start, {}, {})
        for step, batch in enumerate(alone.batches()):
            assert stacked[step]["x"][place][stacked[step]["real"][place]].equal(batch["x"])


def test_none_hands_on_the_tasks_own_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path)
    batch = {"x": torch.zeros(1)}
    monkeypatch.setattr(trainer.task, "gather", lambda *_: batch)
    monkeypatch.setattr("fl_bench.data.augment.rng.generator", None)  # nothing is drawn
    assert trainer.examples(np.array([3]), trainer.augment.chances(0, "batches", 1, 0)(1), 1) is batch


@pytest.mark.parametrize("name", ALL)
def test_nobody_is_evaluated_on_augmented_images(tmp_path: Path, name: str) -> None:
    plain, augmented = make(tmp_path), make(tmp_path, f"augment={name}")
    payload = plain.untrained()
    batches = plain.test_batches
    assert augmented.test(payload, batches) == plain.test(payload, batches)
    assert augmented.evaluate_client(1, 1, payload, {}, {}) == plain.evaluate_client(1, 1, payload, {}, {})


@long
def test_the_bytes_are_those_of_every_engine_and_packing(launch: Launch, tmp_path: Path) -> None:
    words = (*SMALL, "augment=color", "shift=noise", "evaluate.clients=true", "evaluate.adapt_steps=1")
    inline = digests(launch(*words))
    result = forked(*words, "figures=false", "hydra.run.dir=simulated", cwd=tmp_path, timeout=200)
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "simulated") == inline
    assert digests(launch(*words, "engine.packing=false")) == inline
    assert digests(launch(*SMALL, "shift=noise", "evaluate.clients=true", "evaluate.adapt_steps=1")) != inline


def test_a_run_goes_on_as_if_it_had_not_stopped(launch: Launch, tmp_path: Path) -> None:
    words = (*SMALL, "augment=flip_crop", "shift=label_noise")
    whole, half = launch(*words), launch(*words, "num_rounds=1")
    (scratch := tmp_path / "scratch").mkdir()
    assert execute(compose(*words), half, scratch, begin=Start.RESUME) == 0
    assert digests(half) == digests(whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("task=imdb", "augment=flip_crop"),
            "augment: needs images, a column x of uint8 .*, and the data has tokens, y",
        ),
        (("augment=flip_crop", "augment.p=1.5"), r"augment\.p=1.5: must be from 0 to 1"),
        (("augment=flip_crop", "augment.padding=-1"), r"augment\.padding=-1: must be 0 or more"),
        (("augment=color", "augment.contrast=2"), r"augment\.contrast=2: must be from 0 to 1"),
        (("augment=randaugment", "augment.num_ops=0"), r"augment\.num_ops=0: must be 1 or more"),
        (("augment=randaugment", "augment.magnitude=31"), r"augment\.magnitude=31: must be from 0 to 30"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(refused: Callable[..., str], words: tuple[str, ...], message: str) -> None:
    assert re.search(message, refused(*words))
