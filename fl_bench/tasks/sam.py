"""Segment Anything (Kirillov et al. 2023, arXiv:2304.02643), fine-tuned to find an object from a box around it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fl_bench.data import shapes
from fl_bench.data.arrays import FederatedData, Lookup, new_array, new_column
from fl_bench.data.fetch import WAYS_OUT, use_cache_when_offline
from fl_bench.data.masks import Meaning
from fl_bench.data.shapes import Scene
from fl_bench.data.sources import TEST_PHOTOS, TRAIN_PHOTOS
from fl_bench.errors import ConfigError
from fl_bench.metrics import Mean, Metric
from fl_bench.models.pretrained import PRETRAINED, from_pretrained, loading, pretrained_model, transformers_quietly
from fl_bench.tasks.base import Batch, Metrics, Task, batch_mean, gather

HUB = "facebook/sam-vit-base"
TINY = Path(__file__).parent / "sam_tiny"  # made by scripts/make_sam_checkpoint.py
SHOWN, SHOWN_COUNT = "shown.npy", 8  # the test objects that the pictures show


class Sam(Task):
    """A row is an object: "box" [4], "mask" uint8 [size, size], and "pixels" or "embedding" of the image it is in.

    With `train=mask_decoder` the image encoder is frozen, so each image goes through it once, when the data is
    loaded; what is frozen is neither sent nor averaged.
    """

    metrics = (*Task.metrics, *(Metric(name, better="higher") for name in ("iou", "dice", "box_iou")))

    def __init__(
        self,
        path: str | None,
        train: Literal["mask_decoder", "all"],
        objects: Meaning = "auto",
        min_area: int = 1,
    ) -> None:
        self.path = path
        self.train = train
        self.objects: Meaning = objects
        self.min_area = min_area

    def model(self, data: FederatedData) -> nn.Module:
        model = pretrained_model(transformers_quietly().SamModel, data.folder / PRETRAINED)
        if self.train == "mask_decoder":
            model.requires_grad_(False)
            model.get_submodule("mask_decoder").requires_grad_(True)
        return model

    def shared(self, model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def load_embedded(self, folder: Path) -> FederatedData:
        """Generated shapes on real photos, 1,200 to train and 300 to test; the photos of the two are different."""
        rng = np.random.default_rng(0)
        train, test = (
            list(shapes.generated(count, photos, rng)) for count, photos in ((1200, TRAIN_PHOTOS), (300, TEST_PHOTOS))
        )
        return self._load(folder, train, test, shapes.KINDS, self.path or str(TINY))

    def load_nuclei(self, folder: Path) -> FederatedData:
        """125 real nuclei, 100 to train and 25 to test."""
        scenes = shapes.nuclei()
        order = np.random.default_rng(0).permutation(len(scenes))
        train, test = ([scenes[i] for i in part] for part in (order[25:], order[:25]))
        return self._load(folder, train, test, ("nucleus",), self.path or str(TINY))

    def load_full(self, folder: Path, root: str | None, dataset: str | None) -> FederatedData:
        """The images and masks in `data.root`, see `shapes.from_folder`, for SAM itself.

        A random tenth is to test: of the images, or, where they come from several sources, of the sources, whole.
        """
        if root is None:
            raise ConfigError(f"data.root=null: the images/ and masks/ must be in a folder; {WAYS_OUT}")
        scenes = list(shapes.from_folder(root, self.objects, self.min_area))
        groups = [number if scene.source is None else scene.source for number, scene in enumerate(scenes)]
        names = sorted(set(groups))
        if len(names) < 2:
            raise ConfigError(f"data.root={root}: needs masks with objects in at least two images, of two sources")
        tested = {names[i] for i in np.random.default_rng(0).permutation(len(names))[: max(1, len(names) // 10)]}
        train, test = (
            [scene for scene, group in zip(scenes, groups, strict=True) if (group in tested) == wanted]
            for wanted in (False, True)
        )
        return self._load(folder, train, test, ("object",), self.path or HUB)

    def objective(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Dice loss + cross-entropy; IoU and Dice of the mask, each the mean over objects."""
        logits, target = self._logits(model, batch), batch["mask"].float()
        loss = dice_loss(logits, target) + functional.binary_cross_entropy_with_logits(logits, target)
        iou, dice = overlap(logits.detach() > 0, target > 0)
        count = len(target)
        return loss, {
            "loss": batch_mean(loss, count),
            "iou": Mean(iou.sum(), count),
            "dice": Mean(dice.sum(), count),
        }

    def score(self, model: nn.Module, batch: Batch) -> Metrics:
        """Also `box_iou`, of the box filled in: what a model must beat to be of use."""
        iou, _ = overlap(filled(batch["box"], batch["mask"].shape[-1]), batch["mask"] > 0)
        return self.objective(model, batch)[1] | {"box_iou": Mean(iou.sum(), len(iou))}

    @torch.no_grad()
    def picture(self, model: nn.Module, data: FederatedData) -> NDArray[np.uint8]:
        """The first test objects: image and box, the model's mask and its IoU, the true mask."""
        model.eval()
        images = np.load(data.folder / SHOWN)
        device = next(model.parameters()).device
        batch = gather(data.test, np.arange(len(images)), device)
        guesses = self._logits(model, batch) > 0
        ious, _ = overlap(guesses, batch["mask"] > 0)
        framed = images.copy()
        for image, box in zip(framed, data.test["box"], strict=False):
            left, top, right, bottom = np.clip(box, 0, image.shape[0] - 1).astype(int)
            image[[top, bottom], left : right + 1] = image[top : bottom + 1, [left, right]] = (255, 220, 0)
        masks = (mask.cpu().numpy()[..., None] > 0 for mask in (guesses, batch["mask"]))
        predicted, true = (np.where(mask, images, images // 5) for mask in masks)
        return _sheet({"image and box": framed, "predicted mask": predicted, "true mask": true}, ious.tolist())

    @staticmethod
    def _logits(model: nn.Module, batch: Batch) -> Tensor:
        """One mask for each box, as logits at the size of the true masks [B, size, size]."""
        images = {"image_embeddings": batch["embedding"]} if "embedding" in batch else {"pixel_values": batch["pixels"]}
        output = model(**images, input_boxes=batch["box"][:, None], multimask_output=False)
        return functional.interpolate(output.pred_masks[:, 0], batch["mask"].shape[-2:], mode="bilinear")[:, 0]

    def _load(
        self, folder: Path, train: Sequence[Scene], test: Sequence[Scene], classes: tuple[str, ...], path: str
    ) -> FederatedData:
        on_hub = not Path(path).exists()
        if on_hub:
            use_cache_when_offline()
        transformers = transformers_quietly()
        if on_hub:
            with loading(path):
                path = transformers.utils.hub.snapshot_download(path, allow_patterns=["*.json", "*.safetensors"])
        processor = from_pretrained(transformers.SamProcessor, path)
        model = pretrained_model(transformers.SamModel, path)
        (folder / PRETRAINED).symlink_to(Path(path).resolve())
        columns = {
            split: self._columns(folder, split, scenes, processor, model)
            for split, scenes in (("train", train), ("test", test))
        }
        return FederatedData(columns["train"], columns["test"], classes)

    @torch.no_grad()
    def _columns(self, folder: Path, split: str, scenes: Sequence[Scene], processor: Any, model: Any) -> dict[str, Any]:
        """Rows of objects, each image processed, and where the encoder is frozen also encoded, once."""
        size = model.config.vision_config.image_size
        frame = {"mask_size": {"longest_edge": size}, "mask_pad_size": {"height": size, "width": size}}
        frozen = self.train == "mask_decoder"
        name = "embedding" if frozen else "pixels"
        images = np.repeat(np.arange(len(scenes)), [len(scene.boxes) for scene in scenes])  # of each object
        masks = new_column(folder, split, "mask", (len(images), size, size), np.uint8)
        boxes: list[NDArray[np.float32]] = []
        shown: list[NDArray[np.uint8]] = []
        table: NDArray | None = None
        for number, scene in enumerate(scenes):
            height, width = scene.image.shape[:2]
            if 2 * size * min(height, width) <= max(height, width):
                raise ConfigError(f"data: an image of {height} x {width} pixels is too narrow for {size} x {size}")
            inputs = processor(
                scene.image, segmentation_maps=scene.objects, input_boxes=[scene.boxes], return_tensors="pt", **frame
            )
            pixels = inputs["pixel_values"]
            value = model.get_image_embeddings(pixels) if frozen else pixels
            if table is None:
                table = new_column(folder, split, name, (len(scenes), *value.shape[1:]), np.float32, part="table")
            table[number] = value[0]
            for index, box in enumerate(inputs["input_boxes"][0].float().numpy()):
                masks[len(boxes)] = inputs["labels"][0] == index + 1
                boxes.append(box)
                if len(shown) < SHOWN_COUNT:
                    shown.append(_display(pixels[0], processor.image_processor))
        if split == "test":
            pictures = np.stack(shown)
            new_array(folder / SHOWN, pictures.shape, pictures.dtype)[...] = pictures
        assert table is not None
        kinds = np.concatenate([np.array(scene.kinds, dtype=np.int64) for scene in scenes])
        columns = {name: Lookup(table, images), "box": np.stack(boxes), "mask": masks, "y": kinds}
        if scenes[0].source is not None:
            columns["source"] = np.array([scene.source for scene in scenes], dtype=np.int64)[images]
        return columns


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - 2 |P T| / (|P| + |T|), smoothed by one pixel, of probabilities; the mean over objects."""
    probability = logits.sigmoid()
    both = (probability * target).sum(dim=(1, 2))
    return (1 - (2 * both + 1) / (probability.sum(dim=(1, 2)) + target.sum(dim=(1, 2)) + 1)).mean()


def filled(box: Tensor, size: int) -> Tensor:
    """Each box [B, 4] filled in, as boolean masks [B, size, size]."""
    left, top, right, bottom = (side[:, None, None] for side in box.unbind(dim=1))
    at = torch.arange(size, device=box.device)
    return (at >= left) & (at <= right) & (at[:, None] >= top) & (at[:, None] <= bottom)


def overlap(guess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and Dice of boolean masks [B, H, W], each [B]; two empty masks agree fully."""
    both = (guess & truth).sum(dim=(1, 2)).double()
    sizes = (guess.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))).double()
    union = sizes - both
    iou, dice = both / union.clamp(min=1), 2 * both / sizes.clamp(min=1)
    return torch.where(union > 0, iou, 1.0), torch.where(sizes > 0, dice, 1.0)


def _display(pixels: Tensor, normalised: Any) -> NDArray[np.uint8]:
    """Pixels [3, H, W] that an image processor has normalised as an image again [H, W, 3]; what it padded is grey."""
    mean, std = (torch.tensor(value) for value in (normalised.image_mean, normalised.image_std))
    return ((pixels.permute(1, 2, 0) * std + mean) * 255).round().clamp(0, 255).byte().numpy()


TILE, LABEL, LINE = 192, 115, 22  # pixels of a picture: the sides of an image, and the places for text


def _sheet(rows: Mapping[str, NDArray[np.uint8]], ious: Sequence[float]) -> NDArray[np.uint8]:
    """Rows of images [N, side, side, 3] behind their names; beneath those of the second row, their IoU."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (LABEL + len(ious) * TILE, len(rows) * TILE + LINE), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(rows.items()):
        top = row * TILE + (LINE if row > 1 else 0)
        draw.text((LABEL - 8, top + TILE // 2), name, "black", anchor="rm", font_size=14)
        for column, image in enumerate(images):
            tile = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (LABEL + column * TILE, top))
    for column, iou in enumerate(ious):
        place = LABEL + column * TILE + TILE // 2, 2 * TILE + LINE // 2
        draw.text(place, f"IoU {iou:.2f}", "black", anchor="mm", font_size=14)
    return np.asarray(sheet)
