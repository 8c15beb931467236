"""Checkpoints: what a run goes on from after a crash."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.federation.rounds import Round
from fl_bench.observers.base import Observer
from fl_bench.storage.checkpoint import Store


class Checkpoints(Observer):
    """Keeps `parts`, by name, and the model, after every so many rounds and after the last."""

    def __init__(self, store: Store, cfg: DictConfig, parts: Mapping[str, Any]) -> None:
        self.store = store
        self.parts = parts
        self.num_rounds: int = cfg.num_rounds
        self.config = OmegaConf.to_container(cfg, resolve=True)

    def see(self, round: Round) -> None:
        if self.store.due(round.number, self.num_rounds):
            self.store.save(round.number, round.vector, self.config, self.parts)
