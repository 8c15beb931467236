"""Pictures of the model over the rounds: one PNG each, and all of them as an animation."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 800  # pixels of the shorter side that a small picture is enlarged to, at most fourfold


class Album:
    """Keeps pictures in `folder` as round_0000.png, ..."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames: list[Image.Image] = []

    def add(self, round: int, picture: NDArray[np.uint8] | None) -> None:
        """Keep a picture [H, W, 3]; None is none."""
        if picture is None:
            return
        self.folder.mkdir(exist_ok=True)
        factor = max(1, min(4, SIDE // min(picture.shape[:2])))
        frame = Image.fromarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))
        frame.save(self.folder / f"round_{round:04}.png")
        self.frames.append(frame)

    def bind(self) -> None:
        """Write rounds.gif, where there is anything to show."""
        if self.frames:
            first, *others = self.frames
            first.save(self.folder / "rounds.gif", save_all=True, append_images=others, duration=600, loop=0)
