"""TensorBoard: event files in the run's own folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_bench.config.changes import flat
from fl_bench.observers.tracker import Tracker, need

FLUSH_SECONDS = 5  # how far behind the run TensorBoard may be


class TensorBoard(Tracker):
    """Scalars such as `test/loss` with the round as step, and the config as text and as hyperparameters."""

    def __init__(self) -> None:
        need("tensorboard")

    def begin(self, run: Mapping[str, Any], folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        if (events := folder / "tensorboard").exists():
            shutil.rmtree(events)
        self.writer = SummaryWriter(events, flush_secs=FLUSH_SECONDS)
        config = flat(run["config"])
        lines = [f"    {key}: {value}" for key, value in config.items()]  # indented: code in Markdown
        self.writer.add_text("config", "\n".join(lines))
        # Without the first of the three parts, which would have to name the metrics now, TensorBoard finds them itself.
        values = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in config.items()}
        _, start, _ = hparams(values, {})
        self.writer._get_file_writer().add_summary(start)

    def log(self, round: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self.writer.add_scalar(name.replace("_", "/", 1), number, round)  # one heading each for test_, train_, ...

    def end(self, status: str) -> None:
        self.writer.close()
