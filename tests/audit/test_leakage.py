"""Labels from gradients at a cut: by hand, and in runs whose clients hold columns."""

from pathlib import Path

import numpy as np
import pytest
from conftest import Launch, table

from fl_bench import commands
from fl_bench.audit.areas import area
from fl_bench.audit.leakage import leakage
from fl_bench.errors import ConfigError

WORDS = ("setting=vertical", "task=tabular", "num_clients=2", "setting.alignment=known", "num_rounds=1",
         "local.batch_size=100")  # fmt: skip


def test_areas_by_hand() -> None:
    """Of six pairs of a row of class 0 and another, five have the higher score at the former; of class 1 all six."""
    scores = np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 5.0], [0.0, 4.0], [0.0, 3.0]])
    labels = np.array([0, 0, 1, 1, 1])
    middle, low, high = area(scores, labels, [0, 1])
    assert middle == pytest.approx((5 / 6 + 1) / 2)
    assert low < middle < high
    assert area(np.zeros((5, 1)), labels, [1])[0] == 0.5


def test_the_interval_is_delongs() -> None:
    """Variances of the placements of each class, over the numbers of rows."""
    scores, labels = np.array([4.0, 2.0, 3.0, 1.0, 0.0]), np.array([1, 1, 0, 0, 0])
    middle, low, high = area(scores[:, None], labels, [1])
    assert middle == pytest.approx(5 / 6)
    # Placements 1 and 2/3 of the class, and 1/2, 1 and 1 of the others: variances 1/18 and 1/12.
    reach = 1.959964 * np.sqrt(1 / 18 / 2 + 1 / 12 / 3)
    assert low == pytest.approx(5 / 6 - reach)
    assert high == 1.0


def test_by_hand() -> None:
    """Gradients of cross-entropy at the scores of two classes point opposite ways, longer for the rare one."""
    gradients = np.array([[0.2, -0.2], [-0.9, 0.9], [0.1, -0.1], [0.3, -0.3], [-0.8, 0.8]])
    found = leakage(gradients, np.array([0, 1, 0, 0, 1]))
    assert found.norm[0] == 1
    assert found.cosine[0] == 1
    assert found.found[0] == 1
    assert found.guess == pytest.approx(2 / 3)  # rows 2, 3 and 4 are not known
    np.testing.assert_allclose(found.cosines, [[1, -1], [1, -1], [-1, 1]])
    np.testing.assert_allclose(found.norms, np.sqrt(2) * np.array([0.2, 0.9, 0.1, 0.3, 0.8]))


def test_gradients_that_have_nothing_to_do_with_labels_tell_nothing() -> None:
    draw = np.random.default_rng(0)
    found = leakage(draw.normal(size=(2000, 8)), draw.integers(0, 4, 2000))
    for _, low, high in (found.norm, found.cosine):
        assert low < 0.5 < high
    with pytest.raises(ValueError, match="needs two rows of each of two classes"):
        leakage(np.ones((3, 2)), np.array([0, 0, 1]))


def audit(run: Path, *words: str) -> dict[str, float]:
    assert commands.call("audit", [str(run), *words]) == 0
    return {f"{row['what']} {row['number']}": float(row["value"]) for row in table(run / "audit", "audit")}


@pytest.mark.parametrize(("data", "least"), [("embedded", 0.95), ("digits", 0.8)])
def test_a_client_learns_labels_from_gradients(
    launch: Launch, capsys: pytest.CaptureFixture[str], data: str, least: float
) -> None:
    run = launch(*WORDS, f"data={data}")
    found = audit(run, "--client", "1")
    assert "round 1: client 1 sees the gradients of " in capsys.readouterr().out
    assert found["leakage cosine_auc"] > least > found["leakage guess_found"]
    assert {file.name for file in (run / "audit").iterdir()} == {"audit.csv", "leakage.png", "leakage.pdf"}
    assert audit(run, "--client", "1") == found


def test_what_is_refused(launch: Launch) -> None:
    columns, rows = launch(*WORDS), launch("data=synthetic", "data.num_samples=200", "num_clients=4", "num_rounds=1")
    for run, given, why in (
        (columns, ("--what", "labels"), r"^labels: is not of this run; what is: leakage$"),
        (columns, ("--client", "7"), r"^--client 7: does not train in round 1"),
        (rows, ("--what", "leakage"), r"^leakage: is not of this run; what is: inversion, labels"),
    ):
        with pytest.raises(ConfigError, match=why):
            commands.call("audit", [str(run), *given])
