import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, long
from PIL import Image
from safetensors.torch import load_file
from turns import LOCAL

from fl_bench.data import shapes
from fl_bench.data.arrays import FederatedData
from fl_bench.data.sources import TEST_PHOTOS, TRAIN_PHOTOS
from fl_bench.models.pretrained import transformers_quietly
from fl_bench.tasks.base import gather
from fl_bench.tasks.sam import LABEL, LINE, TILE, TINY, Sam, dice_loss, overlap

GUESS = torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]], dtype=torch.bool)
TRUTH = torch.tensor([[[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]], dtype=torch.bool)


def test_iou_and_dice_of_a_4x4_mask_by_hand() -> None:
    # 4 and 6 pixels, 2 of them shared: 2 / 8 and 2 * 2 / 10
    iou, dice = overlap(GUESS, TRUTH)
    assert (iou.item(), dice.item()) == (0.25, 0.4)
    empty = torch.zeros_like(GUESS)
    assert [value.item() for value in overlap(empty, empty)] == [1, 1]
    assert [value.item() for value in overlap(GUESS, empty)] == [0, 0]


def test_dice_loss_by_hand() -> None:
    # certain logits give the mask itself: 1 - (2 * 2 + 1) / (4 + 6 + 1)
    certain = torch.where(GUESS, 100.0, -100.0)
    assert dice_loss(certain, TRUTH.float()).item() == pytest.approx(6 / 11)
    # logits of 0 are probabilities of 1/2: 1 - (2 * 3 + 1) / (8 + 6 + 1)
    assert dice_loss(torch.zeros(1, 4, 4), TRUTH.float()).item() == pytest.approx(8 / 15)


def test_the_box_filled_in_is_the_baseline() -> None:
    class Blind(torch.nn.Module):
        def forward(self, input_boxes: Any, multimask_output: bool, image_embeddings: Any) -> Any:
            return type("Output", (), {"pred_masks": torch.full((1, 1, 1, 4, 4), -1.0)})

    box = torch.tensor([[1.0, 0.0, 2.0, 3.0]])  # 2 x 4 pixels around the 6 of the truth
    batch = {"embedding": torch.zeros(1, 1), "box": box, "mask": TRUTH.byte()}
    scores = Sam(None, "mask_decoder").score(Blind(), batch)
    assert {name: mean.value for name, mean in scores.items() if name != "loss"} == {
        "box_iou": 0.75,
        "iou": 0.0,
        "dice": 0.0,
    }


def test_the_checkpoint_is_small_and_of_float32() -> None:
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 2_000_000
    assert {tensor.dtype for tensor in load_file(TINY / "model.safetensors").values()} == {torch.float32}


@pytest.fixture
def embedded(tmp_path: Path) -> FederatedData:
    """A small part of data=embedded, its images already encoded."""
    rng = np.random.default_rng(0)
    parts = (160, TRAIN_PHOTOS), (48, TEST_PHOTOS)
    train, test = (list(shapes.generated(count, photos, rng)) for count, photos in parts)
    return replace(Sam(None, "mask_decoder")._load(tmp_path, train, test, shapes.KINDS, str(TINY)), folder=tmp_path)


def test_a_few_steps_go_far_beyond_the_start_and_the_box(embedded: FederatedData) -> None:
    task = Sam(None, "mask_decoder")
    torch.manual_seed(0)
    model = task.model(embedded)
    optimizer = task.optimizer(model, LOCAL | {"lr": 1e-3, "optimizer": {"name": "AdamW"}})

    def scores() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            return {name: mean.value for name, mean in task.score(model, gather(embedded.test, np.arange(48))).items()}

    before = scores()
    model.train()
    for part in range(20):
        task.step(model, gather(embedded.train, np.arange(160)[part % 10 :: 10]), optimizer, lambda: None)
    after = scores()
    assert before["iou"] < 0.6
    assert after["iou"] > max(0.7, before["box_iou"] + 0.15)


def test_a_picture_names_its_rows_and_gives_the_iou(embedded: FederatedData) -> None:
    task = Sam(None, "mask_decoder")
    model = task.model(embedded)
    picture = task.picture(model, embedded)
    assert picture.shape == (3 * TILE + LINE, LABEL + 8 * TILE, 3)
    ink = picture.max(axis=2) < 128
    rows = [slice(0, TILE), slice(TILE, 2 * TILE), slice(2 * TILE + LINE, None)]
    assert all(ink[row, :LABEL].any() for row in rows)
    assert all(ink[2 * TILE : 2 * TILE + LINE, LABEL + k * TILE :][:, :TILE].any() for k in range(8))
    # the true masks are as bright as the image, and all else is a fifth of it
    true = picture[rows[2], LABEL:].reshape(TILE, 8, TILE, 3)[:, 0]
    shown = np.load(embedded.folder / "shown.npy")[0]
    expected = np.where(embedded.test["mask"][0][..., None] > 0, shown, shown // 5)
    assert (true == expected.repeat(3, axis=0).repeat(3, axis=1)).all()


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").open()))


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for k in range(4):
        Image.fromarray(rng.integers(255, size=(40, 60, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{k}.png")
        mask = np.zeros((40, 60), dtype=np.uint8)
        mask[5:15, 5:20], mask[20:35, 30:50] = 3, 9
        Image.fromarray(mask).save(tmp_path / "masks" / f"{k}.png")
    return tmp_path


@long
def test_a_folder_of_masks_and_what_is_frozen_stays_at_home(launch: Launch, segmented: Path) -> None:
    words = ("task=sam", "data=full", f"data.root={segmented}", f"model.path={TINY}", "num_clients=2", "num_rounds=1")
    decoder = rows(launch(*words, "figures=true"))
    everything = rows(launch(*words, "model.train=all"))
    model = transformers_quietly().SamModel.from_pretrained(TINY)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    inside = sum(size for name, size in sizes.items() if name.startswith("mask_decoder."))
    assert int(decoder[1]["bytes_up"]) == 2 * 4 * inside
    assert int(everything[1]["bytes_up"]) == 2 * 4 * sum(sizes.values())
    # both begin with the same model, so frozen features score as computed ones do
    assert float(decoder[0]["test_loss"]) == pytest.approx(float(everything[0]["test_loss"]), rel=1e-5)


def test_without_a_folder_the_line_names_the_ways_out(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("task=sam", "data=full", exit_code=2)
    line = capsys.readouterr().err
    assert all(way in line for way in ("data.root=", "model.path=", "data=embedded"))
