"""What a classifier minimises may be another loss than the one that is reported."""

from collections.abc import Callable
from math import exp, log

import pytest
import torch
from conftest import Launch, table
from omegaconf import OmegaConf
from torch import Tensor, nn

from fl_bench.tasks.base import Batch, ByName

LOGITS = [[2.0, 0.0], [0.0, 1.0]]
SMALL = ("data=synthetic", "data.num_samples=200", "num_clients=2", "num_rounds=2", "local.steps=2")


class Given(ByName):
    """Whose logits are in the batch."""

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return batch["x"]


def losses(labels: list[int], **options: object) -> tuple[float, float]:
    """What is minimised, and what an evaluation says, of LOGITS with these labels."""
    task = Given(OmegaConf.create({}), **options)  # type: ignore[arg-type]
    batch = {"x": torch.tensor(LOGITS), "y": torch.tensor(labels)}
    return task.objective(nn.Identity(), batch)[0].item(), task.score(nn.Identity(), batch)["loss"].value


# -log softmax of [2, 0] and of [0, 1]
FIRST, SECOND = [log(1 + exp(-2)), log(1 + exp(2))], [log(1 + exp(1)), log(1 + exp(-1))]


def test_by_hand() -> None:
    plain = (FIRST[0] + SECOND[0]) / 2
    assert losses([0, 0]) == pytest.approx((plain, plain))
    smooth = sum(0.9 * loss[0] + 0.1 * sum(loss) / 2 for loss in (FIRST, SECOND)) / 2
    assert losses([0, 0], label_smoothing=0.1) == pytest.approx((smooth, plain))
    weighted = (3 * FIRST[0] + 1 * SECOND[1]) / 4
    assert losses([0, 1], class_weights=[3.0, 1.0]) == pytest.approx((weighted, (FIRST[0] + SECOND[1]) / 2))


def test_a_class_that_counts_for_nothing_is_not_learnt(launch: Launch) -> None:
    words = (*SMALL, "local.steps=30", "num_rounds=3", "target_metric=test_accuracy")
    weights = "task.class_weights=[1,1,1,1,1,0,0,0,0,0]"
    plain, half = (float(table(launch(*words, *w), "metrics")[-1]["test_accuracy"]) for w in ((), (weights,)))
    assert half < 0.75 * plain


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("task.label_smoothing=1.0", "task.label_smoothing=1.0: must be from 0 to below 1"),
        ("task.class_weights=[1,2]", "task.class_weights=[1, 2]: must have one for each of the 10 classes"),
        ("task.class_weights=[0]", "task.class_weights=[0]: must be numbers from 0, not all of them 0"),
        ("task.class_weights=x", "task.class_weights=x: should be a valid list"),
    ],
)
def test_values_that_cannot_be(refused: Callable[..., str], word: str, line: str) -> None:
    assert f"fl-bench: {line}" in refused(*SMALL, word)
