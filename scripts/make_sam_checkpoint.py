"""Make fl_bench/tasks/sam_tiny: a small SamModel, pretrained on ellipses cut from pictures from science, boxed exactly.

    .venv/bin/python scripts/make_sam_checkpoint.py [STEPS]

Task sam fine-tunes its mask decoder on polygons and stars too, cut from everyday photos and with sloppy boxes, none of
which this checkpoint has seen. The licences of the pictures (scikit-image's) allow it; no picture is in the checkpoint.
"""

import sys
from typing import Any

import numpy as np
import torch
from rich.progress import track
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

from fl_bench.data import shapes
from fl_bench.data.sources import TEST_PHOTOS
from fl_bench.tasks.sam import TINY, Sam

SCIENCE = [f"skimage/data/{name}" for name in ("hubble_deep_field.jpg", "ihc.png", "retina.jpg", "motorcycle_left.png")]
SIZE, PATCH, WIDTH = 64, 8, 64


def make_model() -> SamModel:
    config = SamConfig(
        vision_config={
            "hidden_size": WIDTH, "output_channels": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": SIZE, "patch_size": PATCH, "mlp_ratio": 2.0, "window_size": 0, "global_attn_indexes": [0, 1],
            "num_pos_feats": WIDTH // 2, "initializer_range": 0.02,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIZE, "patch_size": PATCH},
        mask_decoder_config={
            "hidden_size": WIDTH, "mlp_dim": 2 * WIDTH, "num_attention_heads": 4, "iou_head_hidden_dim": WIDTH,
        },
    )  # fmt: skip
    vision: Any = config.vision_config
    vision.scale = 1.0  # of the positional embedding; the default, half the width, cannot be learned from
    return SamModel(config)


def batch(processor: SamProcessor, scenes: list[shapes.Scene]) -> dict[str, torch.Tensor]:
    inputs = processor([s.image for s in scenes], input_boxes=[s.boxes for s in scenes], return_tensors="pt")
    masks = torch.from_numpy(np.stack([scene.objects for scene in scenes]))
    return {"pixels": inputs["pixel_values"], "box": inputs["input_boxes"][:, 0].float(), "mask": masks}


def main(steps: int) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    square = {"height": SIZE, "width": SIZE}
    processor = SamProcessor(SamImageProcessor(size={"longest_edge": SIZE}, pad_size=square))
    task, model = Sam(None, "all"), make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    pool = batch(processor, shapes.generated(3000, SCIENCE, rng, ["ellipse"], jitter=0))
    for _ in track(range(steps), "pretraining"):
        rows = torch.from_numpy(rng.integers(3000, size=16))
        task.step(model, {name: column[rows] for name, column in pool.items()}, optimizer, lambda: None)
        schedule.step()
    model.eval()
    for name, photos, kinds, jitter in (
        ("ellipses on science, exact boxes", SCIENCE, ["ellipse"], 0),
        ("all shapes on everyday photos, sloppy boxes", TEST_PHOTOS, shapes.KINDS, 5),
    ):
        scenes = shapes.generated(300, photos, np.random.default_rng(2), kinds, jitter)
        with torch.no_grad():
            scores = task.score(model, batch(processor, scenes))
        print(f"{name}: " + "  ".join(f"{key}={mean.value:.3f}" for key, mean in scores.items()))
    model.save_pretrained(TINY)
    processor.save_pretrained(TINY)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
