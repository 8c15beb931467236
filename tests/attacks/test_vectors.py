"""What malicious clients send, worked out by hand for three clients of three numbers."""

from collections.abc import Callable
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fl_bench.attacks.alie import Alie, usual
from fl_bench.attacks.alone import Gaussian, Scale, SignFlip
from fl_bench.attacks.base import Attack, Knows
from fl_bench.attacks.free_rider import FreeRider
from fl_bench.attacks.label_flip import LabelFlip
from fl_bench.attacks.omniscient import Ipm, Mimic, MinMax, MinSum
from fl_bench.build import find_target
from fl_bench.config.compose import compose, options
from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError
from fl_bench.federation.attacked import collude, colludes, sent
from fl_bench.federation.exchange import TOTAL, Answer, Report, Status
from fl_bench.federation.loads import Pack
from fl_bench.federation.parameters import Layout
from fl_bench.federation.replies import summed
from fl_bench.federation.update import ExactMean, Update
from fl_bench.robust.base import Rule
from fl_bench.robust.before import Mixing

THREE = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, -1.0], [-4.0, 5.0, 1.0]])  # their mean is 0, 3, 1
CORNERS = np.array([[0.0, 0.0, 5.0], [3.0, 0.0, 5.0], [0.0, 3.0, 5.0]])  # their mean is 1, 1, 5
OTHERS = np.zeros((0, 3))
MEAN = Rule(Mixing(), 0)


def made(kind: Callable[..., Attack], *own: Any, **given: Any) -> Attack:
    where = {"fraction": 0.0, "clients": [0, 2], "start_round": 1} | given
    return kind(0, 10, 3, *where.values(), *own)


class Drawn:
    """A generator that draws what the test says."""

    def standard_normal(self, count: int) -> Any:
        return np.array([0.5, -1.0, 2.0])[:count]


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (made(SignFlip, 4.0), [[-4, -8, -12], [-12, -8, 4], [16, -20, -4]]),
        (made(Scale, 100.0), [[100, 200, 300], [300, 200, -100], [-400, 500, 100]]),
        (made(Scale, 1.0), THREE),
        (made(Gaussian, 3.0), [[1.5, -3, 6]] * 3),
        (made(FreeRider, 0.0), [[0, 0, 0]] * 3),
        (made(FreeRider, 2.0), [[1, -2, 4]] * 3),
        (made(LabelFlip), THREE),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_malicious_client_by_itself(attack: Attack, expected: Any) -> None:
    draws: Any = Drawn()
    assert [attack.update(update, draws).tolist() for update in THREE] == np.array(expected).tolist()
    assert attack.knows is Knows.OWN


@pytest.mark.parametrize(
    ("attack", "own", "honest", "expected"),
    [
        (made(Alie, 1.5), THREE[:2], OTHERS, [0.5, 2, -2]),  # mean 2, 2, 1 and deviations 1, 0, 2
        (made(Alie, 1.5), THREE, OTHERS, [-4.41588, 0.87868, -1.44949]),  # deviations: roots of 26, 6 and 8 thirds
        (made(Alie, 1.5), THREE[:1], OTHERS, [1, 2, 3]),  # one alone
        (made(Ipm, 2.0), OTHERS, THREE, [0, -6, -2]),
        (made(Mimic), OTHERS, THREE, [1, 2, 3]),
        # Most is 18, the squared distance of the second and the third. Of p = -1, -1, -1 the second sets gamma:
        # (gamma + 2)^2 + (gamma - 1)^2 + gamma^2 = 18 has the root (sqrt(160) - 2) / 6 = 1.774852.
        (made(MinMax, "sign"), OTHERS, CORNERS, [-0.774852, -0.774852, 3.225148]),
        # Of p = -sqrt(2), -sqrt(2), 0 with t = sqrt(2) * gamma: (t + 2)^2 + (t - 1)^2 = 18 has the root 2.098076.
        (made(MinMax, "std"), OTHERS, CORNERS, [-1.098076, -1.098076, 5]),
        # Most is 9 + 18 = 27, that of the second. 3 * 3 * gamma^2 + 12 = 27: gamma = 1.290994.
        (made(MinSum, "sign"), OTHERS, CORNERS, [-0.290994, -0.290994, 3.709006]),
        # 3 * 4 * gamma^2 + 12 = 27: gamma = 1.118034.
        (made(MinSum, "std"), OTHERS, CORNERS, [-0.581139, -0.581139, 5]),
        # 3 * gamma^2 + 12 = 27: gamma = 2.236068, of a mean of length sqrt(27).
        (made(MinSum, "unit"), OTHERS, CORNERS, [0.569669, 0.569669, 2.848343]),
        (made(MinMax, "std"), OTHERS, CORNERS[:1], [0, 0, 5]),  # one honest client: no distances, no deviations
        (made(MinMax, "unit"), OTHERS, np.zeros((3, 3)), [0, 0, 0]),  # nobody has moved
    ],
)  # fmt: skip
def test_malicious_clients_together(attack: Attack, own: Any, honest: Any, expected: list[float]) -> None:
    own = own if len(own) else THREE[:1]
    assert attack.together(own, honest, 7).tolist() == pytest.approx(expected, abs=1e-5)


def test_how_far_a_little_is() -> None:
    assert usual(7, 3) == pytest.approx(0.674490, abs=1e-6)  # s = 1 of 4: three quarters are below
    assert usual(10, 2) == 0  # s = 4 of 8: half
    assert usual(5, 4) == 0  # one other: none can agree
    assert made(Alie, None).together(THREE, OTHERS, 7)[0] == pytest.approx(-0.674490 * np.sqrt(26 / 3), abs=1e-5)


@pytest.mark.parametrize("direction", ["std", "sign", "unit"])
def test_gamma_is_as_large_as_it_can_be(direction: str) -> None:
    """A second formulation, as the paper has it: the distances themselves, just inside and just outside."""
    honest = np.random.default_rng(0).normal(1, 2, (6, 20))
    apart = [np.sum((a - b) ** 2) for a, b in combinations(honest, 2)]
    sums = [sum(np.sum((a - b) ** 2) for b in honest) for a in honest]
    for kind, most, size in ((MinMax, max(apart), max), (MinSum, max(sums), sum)):
        found = made(kind, direction).together(honest[:1], honest, 7)
        assert size([np.sum((found - a) ** 2) for a in honest]) == pytest.approx(most)


@pytest.mark.parametrize("kind", [Ipm, Mimic, MinMax])
def test_who_knows_of_nobody_sends_what_it_has(kind: Any) -> None:
    given = {Ipm: (2.0,), Mimic: (), MinMax: ("std",)}[kind]
    assert made(kind, *given).together(THREE, OTHERS, 3) is THREE


def test_labels_are_flipped() -> None:
    turn: Any = SimpleNamespace(stream=lambda purpose: iter([{"x": torch.ones(3), "y": torch.tensor([0, 1, 2])}]))
    made(LabelFlip).begin(turn)
    (batch,) = turn.stream("batches")
    assert batch["y"].tolist() == [2, 1, 0]
    assert batch["x"].tolist() == [1, 1, 1]


def test_labels_that_are_no_classes_cannot_be_flipped() -> None:
    other: Any = object()
    with pytest.raises(ConfigError, match="attack: needs two classes or more, and task object has none to tell apart"):
        made(LabelFlip).suit(other, FederatedData({}, {}, ("all",)))


def test_who_is_malicious() -> None:
    assert made(Mimic, clients=[3]).malicious == {3}
    drawn = [made(Mimic, fraction=fraction, clients=None).malicious for fraction in (0.0, 0.04, 0.26, 0.3, 1.0)]
    assert [len(some) for some in drawn] == [0, 0, 3, 3, 10]
    assert drawn[2] == drawn[3]
    later = made(Mimic, start_round=3)
    assert [[later.attacks(client, round) for client in (0, 1)] for round in (2, 3, 9)] == [
        [False, False],
        [True, False],
        [True, False],
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fraction": 1.5}, "attack.fraction=1.5: must be from 0 to 1"),
        ({"start_round": 0}, "attack.start_round=0: must be 1 or more"),
        ({"clients": [0, 10]}, r"attack.clients=\[0, 10\]: must be different clients from 0 to 9"),
        ({"clients": [1, 1]}, "must be different clients"),
    ],
)
def test_who_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(Mimic, **{"clients": None} | given)


LAYOUT = Layout({"w": (2,), "n.running_var": (1,), "c/w": (1,)})  # c is an extra of the strategy
START = np.array([10, 20, 1, 0], np.float32)


def test_an_update_is_of_what_was_received_and_not_of_statistics() -> None:
    trained = np.array([11, 22, 7, 3], np.float32)
    given = (LAYOUT, START, trained)
    assert sent(made(SignFlip, 4.0), 2, 1, *given).tolist() == [6, 12, 7, -12]
    assert sent(made(SignFlip, 4.0), 1, 1, *given) is trained
    assert sent(made(Scale, 1.0), 2, 1, *given) is trained
    assert sent(made(SignFlip, 4.0, start_round=2), 2, 1, *given) is trained
    assert sent(made(Ipm, 1.0), 2, 1, *given) is trained
    noise = sent(made(Gaussian, 1.0), 2, 1, *given)
    assert noise.tolist() == [*sent(made(Gaussian, 1.0), 2, 1, LAYOUT, START, START + 5).tolist()[:2], 7, noise[3]]
    assert noise.tolist() != sent(made(Gaussian, 1.0), 2, 2, *given).tolist()
    assert noise.tolist() != sent(made(Gaussian, 1.0), 0, 1, *given).tolist()


def reports(*starts: Any) -> list[tuple[Pack, Report]]:
    """Clients 0 and 1 at one worker, 2 and 3 at another; 3 has failed."""
    models = [np.array(model, np.float32) for model in ([11, 22, 2, 1], [13, 20, 4, 1], [16, 20, 6, 3])]
    answers = [Answer(client, Status.OK, weight=client + 1) for client in range(3)] + [Answer(3, Status.FAILED)]
    return [
        (Pack(0, [], ExactMean(starts[0], 8)), Report(answers[:2], 0, {"0": models[0], "1": models[1]})),
        (Pack(1, [], ExactMean(starts[1], 8)), Report(answers[2:], 0, {"2": models[2]})),
    ]


def test_colluders_at_the_server() -> None:
    """The second worker's client started from another model; client 1 is honest, with an update of 3, 0 and 1."""
    attack, other = made(Ipm, 2.0), START + 1
    assert [colludes(attack, clients, 1) for clients in ([0, 1], [1, 3], [])] == [True, False, False]
    (_, first), (_, second) = collude(attack, reports(START, other), LAYOUT, MEAN)
    assert first.models["0"].tolist() == [4, 20, 2, -2]
    assert first.models["1"].tolist() == [13, 20, 4, 1]
    assert second.models["2"].tolist() == [5, 21, 6, -1]
    first, second = (summed(pack.mean, report) for pack, report in collude(attack, reports(START, START), LAYOUT, MEAN))
    mean = ExactMean(START, 8)
    assert (first.weight, second.weight) == (3, 3)
    whole = mean.add(mean.add(None, _total(first)), _total(second))
    expected = [10 + (-6 * 1 + 3 * 2 - 6 * 3) / 6, 20, (2 + 8 + 18) / 6, (-2 + 2 - 6) / 6]
    assert mean.mean(whole).tolist() == pytest.approx(expected)


def test_colluders_whose_numbers_are_too_large_have_failed() -> None:
    (_, first), (_, second) = collude(made(Ipm, 1e30), reports(START, START), LAYOUT, MEAN)
    assert [answer.status for answer in first.answers] == [Status.FAILED, Status.OK]
    assert "its largest change of a weight" in str(first.answers[0].why)
    assert (list(first.models), list(second.models)) == (["1"], [])


@pytest.mark.parametrize("attack", [made(Alie, None), made(Ipm, 1.0), made(MinMax, "std")])
def test_colluders_where_no_layer_travels(attack: Attack) -> None:
    nothing = np.zeros(0, np.float32)
    report = Report([Answer(client, Status.OK, weight=1) for client in range(2)], 0, {"0": nothing, "1": nothing})
    ((_, found),) = collude(attack, [(Pack(0, [], ExactMean(nothing, 2)), report)], Layout({}), MEAN)
    assert {client: model.tolist() for client, model in found.models.items()} == {"0": [], "1": []}


def _total(report: Report) -> Update:
    return Update(report.models[TOTAL], report.weight)


@pytest.mark.parametrize("name", sorted(set(options("attack")) - {"none"}))
def test_each_option_says_what_its_class_knows(name: str) -> None:
    target: Any = find_target(compose([f"attack={name}"]).attack)
    first = options("attack")[name].read_text().splitlines()[0]
    assert first.endswith(f"; knows: {target.knows}")
