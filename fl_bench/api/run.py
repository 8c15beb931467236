"""A run, from Python."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from fl_bench.api.command import call, words_of
from fl_bench.build import nearest
from fl_bench.errors import ConfigError
from fl_bench.storage import run_json

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.nn import Module


def run(*words: str, **keys: Any) -> "Run":
    """Run an experiment, as `fl-bench` does with these words, and wait for its end.

    Keys with dots are words, or entries of a dict: `run("task=cifar", seed=1, **{"local.lr": 0.1})`.

    Raises:
        ConfigError: where a word or a key is wrong.
        RunError: where the run fails.
        KeyboardInterrupt: when the run, which is interrupted too, has put its files in order.
    """
    return Run(call(words_of(words, keys)))


class Run:
    """A run that exists, finished or not. What it has written is read when it is asked for."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        """Raises ConfigError where this is not the folder of a run."""
        self.folder = Path(folder).absolute()
        run_json.read_run(self.folder)

    @property
    def record(self) -> dict[str, Any]:
        """All of run.json."""
        return run_json.read_run(self.folder)

    @property
    def status(self) -> str:
        """running, done, failed, invalid or interrupted."""
        return str(self.record["status"])

    @property
    def config(self) -> DictConfig:
        """Every key, with its value."""
        config: DictConfig = OmegaConf.create(self.record["config"])
        return config

    @property
    def final(self) -> dict[str, Any]:
        """The last row of `metrics`."""
        return dict(self.record["final"])

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each round, from round 0, the model before any training."""
        return self._table("metrics")

    @property
    def clients(self) -> pd.DataFrame:
        """A row for each client that was asked in a round."""
        return self._table("clients")

    @property
    def timing(self) -> pd.DataFrame:
        """A row for each round: seconds, and the memory of the workers."""
        return self._table("timing")

    def _table(self, name: str) -> pd.DataFrame:
        try:
            return pd.read_csv(self.folder / f"{name}.csv")
        except FileNotFoundError:
            raise ConfigError(f"{self.folder}: has no {name}.csv: no round has ended") from None

    def figure(self, name: str = "curves") -> "Image":
        """One of the pictures in the run's folder figures/, which notebooks show; ConfigError where it is not there."""
        from PIL import Image

        found = {file.stem: file for file in sorted(self.folder.glob("figures/*.png"))}
        if not found:
            raise ConfigError(f"{self.folder}: has no figures: it has not ended, or had figures=false")
        if name not in found:
            raise ConfigError(f"figure {name}: {nearest(name, found)}")
        with Image.open(found[name]) as image:
            image.load()
        return image

    def model(self, trust: Sequence[str] = ()) -> "Module":
        """The model at the run's end, or at its last checkpoint, on the CPU; its data are made once more, as its shape
        may follow from them. `trust` names modules that it may be made of besides those of fl-bench.

        Raises ConfigError where layers stay with the clients, so that there is no whole model.
        """
        from fl_bench.commands._common import recorded
        from fl_bench.runs.evaluate import whole_model  # torch and Flower

        cfg, _ = recorded(self.folder, ["engine=inline"], trusted=trust)
        return whole_model(cfg, self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        record = self.record
        rows = {"folder": self.folder, "status": record["status"], "words": " ".join(record.get("overrides", []))}
        rows |= {name: f"{value:.4g}" for name, value in record["final"].items() if isinstance(value, int | float)}
        cells = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
        table = f"<table>{''.join(cells)}</table>"
        curves = self.folder / "figures" / "curves.png"
        if not curves.is_file():
            return table
        return f'{table}<img alt="curves" src="data:image/png;base64,{b64encode(curves.read_bytes()).decode()}">'
