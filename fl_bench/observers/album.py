"""Pictures of the model over the rounds: one PNG each, and all of them as an animation."""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_bench.federation.local import Trainer
from fl_bench.federation.rounds import Experiment, Round
from fl_bench.observers.base import Observer
from fl_bench.storage import files
from fl_bench.storage.checkpoint import Checkpoint
from fl_bench.storage.folder import OURS

PREFIX = "round_"
SIDE = 800  # pixels of the shorter side that a small picture is enlarged to, at most fourfold


class Album(Observer):
    """Keeps what the task shows of the model about ten times in a run, in `folder` as round_0000.png, ..."""

    def __init__(self, folder: Path, trainer: Trainer, num_rounds: int) -> None:
        self.folder = folder
        self.trainer = trainer
        self.num_rounds = num_rounds

    def see(self, round: Round) -> None:
        every = max(1, self.num_rounds // 10)
        if not self.trainer.shows or (round.number % every and round.number != self.num_rounds):
            return
        self.trainer.load(round.vector)
        picture = self.trainer.task.picture(self.trainer.flat.model, self.trainer.data)
        if picture is not None:
            self.add(round.number, picture)

    def clear(self, after: int = -1) -> None:
        """Remove the pictures of rounds after this one, which an earlier run has left."""
        for file in self._pictures():
            if _number(file) > after:
                file.unlink()

    def add(self, number: int, picture: NDArray[np.uint8]) -> None:
        """Keep the picture [H, W, 3] of a round."""
        self.folder.mkdir(exist_ok=True)
        factor = max(1, min(4, SIDE // min(picture.shape[:2])))
        content = BytesIO()
        Image.fromarray(picture.repeat(factor, axis=0).repeat(factor, axis=1)).save(content, "png")
        files.write(self.folder / f"{PREFIX}{number:04}.png", content.getvalue())

    def bind(self) -> None:
        """Write rounds.gif where there are pictures."""
        frames = [Image.open(file, formats=["PNG"]) for file in self._pictures()]  # other formats start other programs
        if frames:
            first, *others = frames
            first.save(self.folder / "rounds.gif", save_all=True, append_images=others, duration=600, loop=0)

    def _pictures(self) -> list[Path]:
        """Ours, in the order of the rounds."""
        files = self.folder.glob(f"{PREFIX}*.png")
        return sorted((file for file in files if OURS.fullmatch(f"figures/{file.name}")), key=_number)


def album_of(made: Experiment, start: Checkpoint | None) -> list[Album]:
    """The album of a run, or none, with the pictures up to the checkpoint from which the run goes on."""
    if not made.cfg.figures:
        return []
    album = Album(made.folder / "figures", made.trainer, made.cfg.num_rounds)
    album.clear(after=start.round if start else -1)
    return [album]


def _number(file: Path) -> int:
    return int(file.stem.removeprefix(PREFIX))
