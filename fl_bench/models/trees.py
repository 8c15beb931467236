"""Gradient-boosted trees of xgboost (Chen and Guestrin 2016, arXiv:1603.02754) for rows of tables, [features]."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fl_bench.build import not_negative
from fl_bench.errors import ConfigError
from fl_bench.models.opaque import Opaque

if TYPE_CHECKING:  # a second to import
    from xgboost import Booster

# Both classes are equally likely before the first tree: xgboost would ask the rows, and clients' rows differ.
ALWAYS = {"objective": "binary:logistic", "base_score": 0.5, "tree_method": "hist", "nthread": 1}


class Forest(Opaque):
    """Trees whose scores add up. Its content is xgboost's JSON, which `Booster.load_model` reads too."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = options  # of xgboost, for `grow`

    def forward(self, x: Tensor) -> Tensor:
        """Scores [B, 2] of rows [B, features]: 0, and the log-odds of the second class. Raises ConfigError."""
        margins = torch.zeros(len(x))
        if len(self.content):
            from xgboost import DMatrix

            rows = DMatrix(x.numpy(), nthread=1)
            margins += torch.from_numpy(_read(self._bytes).predict(rows, output_margin=True))
        return torch.stack([torch.zeros_like(margins), margins], dim=1)

    def grow(self, x: Tensor, y: Tensor, trees: int, seed: int) -> None:
        """Add `trees`, along the gradient of the loss on rows [N, features] with labels [N]. Raises ConfigError."""
        from xgboost import DMatrix, train

        options, rows = {**ALWAYS, **self.options, "seed": seed}, DMatrix(x.numpy(), y.numpy(), nthread=1)
        before = _read(self._bytes) if len(self.content) else None
        self._become(train(options, rows, trees, xgb_model=before))

    def prune(self) -> None:
        """Keep the last tree only."""
        grown = _read(self._bytes)
        self._become(grown[grown.num_boosted_rounds() - 1 :])

    @property
    def _bytes(self) -> bytes:
        return self.content.numpy().tobytes()

    def _become(self, booster: "Booster") -> None:
        self.content = torch.from_numpy(np.array(booster.save_raw("json")))


def forest(
    shape: tuple[int, ...],
    num_classes: int,
    eta: float,
    max_depth: int,
    reg_lambda: float,
    subsample: float,
    colsample_bytree: float,
) -> Forest:
    """No trees yet, for [features] and two classes.

    Raises:
        ConfigError: where xgboost is not installed.
        ValueError: where an option is out of range, or these are other examples.
    """
    if find_spec("xgboost") is None:
        raise ConfigError("model=trees: needs the package xgboost: pip install 'fl-bench[trees]'")
    if len(shape) != 1:
        raise ValueError(f"trees take rows of tables, and these examples are {[*shape]}; see docs/models.md")
    if num_classes != 2:
        raise ValueError(f"trees tell two classes apart, and there are {num_classes}; use model=mlp strategy=fedavg")
    shares = {"eta": eta, "subsample": subsample, "colsample_bytree": colsample_bytree}
    if wrong := [name for name, share in shares.items() if not 0 < share <= 1]:
        raise ValueError(f"{wrong[0]}={shares[wrong[0]]}: must be above 0 and at most 1")
    if max_depth < 1:
        raise ValueError(f"max_depth={max_depth}: must be 1 or more")
    not_negative(reg_lambda=reg_lambda)
    return Forest({**shares, "max_depth": max_depth, "reg_lambda": reg_lambda})


@lru_cache(maxsize=1)  # a forest is asked about one batch after another
def _read(content: bytes) -> "Booster":
    from xgboost import Booster
    from xgboost.core import XGBoostError

    try:
        return Booster({"nthread": 1}, model_file=bytearray(content))
    except XGBoostError as error:
        raise ConfigError(f"model: these {len(content)} bytes are no trees of xgboost") from error
