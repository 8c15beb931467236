"""Pictures of the model over the rounds: one PNG each, and all of them as an animation."""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_bench.storage import files

PREFIX = "round_"
SIDE = 800  # pixels of the shorter side that a small picture is enlarged to, at most fourfold


class Album:
    """Keeps pictures in `folder` as round_0000.png, ..."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self, after: int = -1) -> None:
        """Remove the pictures of rounds after this one, which an earlier run has left."""
        for file in self._pictures():
            if _round(file) > after:
                file.unlink()

    def add(self, round: int, picture: NDArray[np.uint8] | None) -> None:
        """Keep a picture [H, W, 3]; None is none."""
        if picture is None:
            return
        self.folder.mkdir(exist_ok=True)
        factor = max(1, min(4, SIDE // min(picture.shape[:2])))
        content = BytesIO()
        Image.fromarray(picture.repeat(factor, axis=0).repeat(factor, axis=1)).save(content, "png")
        files.write(self.folder / f"{PREFIX}{round:04}.png", content.getvalue())

    def bind(self) -> None:
        """Write rounds.gif, where there is anything to show."""
        frames = [Image.open(file) for file in self._pictures()]
        if frames:
            first, *others = frames
            first.save(self.folder / "rounds.gif", save_all=True, append_images=others, duration=600, loop=0)

    def _pictures(self) -> list[Path]:
        """In the order of the rounds."""
        return sorted(self.folder.glob(f"{PREFIX}*.png"), key=_round)


def _round(file: Path) -> int:
    return int(file.stem.removeprefix(PREFIX))
