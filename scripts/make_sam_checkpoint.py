"""Make fl_bench/tasks/sam_tiny: a small SamModel, pretrained on blobs and ellipses cut from pictures from science.

    .venv/bin/python scripts/make_sam_checkpoint.py [STEPS]

It takes about 12 minutes on one core. First all of the model learns exact masks, so that the features of its encoder
tell objects from what is behind them. Then its mask decoder alone learns coarse masks: the box
filled in, as of annotators in a hurry. So it is made to begin where the baseline of task sam is, and clients with
exact masks teach it to follow edges, which it once could: that it learns this in so few rounds is owed to its first
lesson. The polygons, stars and crescents of that task and its everyday photos are not among what it has seen. The
licences of the pictures (scikit-image's) allow it; no picture is in the checkpoint.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

from fl_bench.data import shapes
from fl_bench.data.sources import TEST_PHOTOS
from fl_bench.tasks.sam import TINY, Sam, filled

SCIENCE = [f"skimage/data/{name}" for name in ("hubble_deep_field.jpg", "ihc.png", "retina.jpg", "motorcycle_left.png")]
SEEN = ["blob", "ellipse"]
SIZE, PATCH, WIDTH = 64, 4, 64
POOL, BATCH, COARSE_STEPS = 12_000, 16, 150


def make_model() -> SamModel:
    config = SamConfig(
        vision_config={
            "hidden_size": WIDTH, "output_channels": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": SIZE, "patch_size": PATCH, "mlp_ratio": 2.0, "window_size": 4, "global_attn_indexes": [1],
            "num_pos_feats": WIDTH // 2, "initializer_range": 0.02, "use_rel_pos": False,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIZE, "patch_size": PATCH},
        mask_decoder_config={
            "hidden_size": WIDTH, "mlp_dim": 2 * WIDTH, "num_attention_heads": 4, "iou_head_hidden_dim": WIDTH,
        },
    )  # fmt: skip
    vision: Any = config.vision_config
    vision.scale = 1.0  # of the positional embedding; the default, half the width, cannot be learned from
    return SamModel(config)


def columns(scenes: Sequence[shapes.Scene]) -> dict[str, Tensor]:
    """Images uint8 [N, 3, size, size], boxes [N, 4] and masks [N, size, size]."""
    return {
        "image": torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2),
        "box": torch.tensor([scene.boxes[0] for scene in scenes]),
        "mask": torch.from_numpy(np.stack([scene.objects for scene in scenes]).astype(np.uint8)),
    }


def batch(processor: SamProcessor, pool: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    chosen = {name: column[rows] for name, column in pool.items()}
    return chosen | {"pixels": processor.image_processor(chosen.pop("image"), return_tensors="pt")["pixel_values"]}


def main(steps: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    square = {"height": SIZE, "width": SIZE}
    processor = SamProcessor(SamImageProcessor(size={"longest_edge": SIZE}, pad_size=square))
    task, model = Sam(None, "all"), make_model()
    pool = columns(list(shapes.generated(POOL, SCIENCE, np.random.default_rng(1), SEEN, contrast=40)))

    def train(steps: int, rate: float, coarse: bool) -> None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
        model.train()
        for _ in track(range(steps), "coarse masks" if coarse else "exact masks"):
            rows = batch(processor, pool, torch.randint(POOL, (BATCH,)))
            task.step(model, rows | ({"mask": filled(rows["box"], SIZE)} if coarse else {}), optimizer, lambda: None)
            schedule.step()
        model.eval()
        for name, photos, kinds in (("seen", SCIENCE, SEEN), ("of the task", TEST_PHOTOS, shapes.KINDS)):
            test = columns(list(shapes.generated(300, photos, np.random.default_rng(2), kinds)))
            with torch.no_grad():
                scores = task.score(model, batch(processor, test, torch.arange(300)))
            print(f"shapes {name}: " + "  ".join(f"{key}={mean.value:.3f}" for key, mean in scores.items()))

    train(steps, 2e-3, coarse=False)
    model.requires_grad_(False)
    model.get_submodule("mask_decoder").requires_grad_(True)
    train(COARSE_STEPS, 1e-3, coarse=True)
    model.save_pretrained(TINY)
    processor.save_pretrained(TINY)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
