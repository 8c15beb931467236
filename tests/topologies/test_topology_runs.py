"""Topologies in runs: what is FedAvg after all, what is not, and the same bytes on every engine and after a stop."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Launch, compose, digests, forked, long, often, table
from safetensors.numpy import load_file

from fl_bench.config.compose import options
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute

SMALL = ("num_clients=6", "num_rounds=2", "local.steps=2", "partition=linear")
ALL = sorted(set(options("topology")) - {"star"})
EQUAL = ("partition=iid", "partition.holdout=0", "data=synthetic", "data.num_samples=600")


@pytest.fixture
def words(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The words for a small run of a topology."""
    np.save(tmp_path / "w.npy", np.full((6, 6), 1 / 6))
    more = {"file": (f"topology.path={tmp_path}/w.npy",), "random": ("topology.degree=3",)}
    return lambda name, *others: (*SMALL, f"topology={name}", *more.get(name, ()), *others)


def model(run: Path) -> np.ndarray:
    return np.concatenate([tensor.ravel() for tensor in load_file(run / "model.safetensors").values()])


def results(run: Path) -> dict[str, object]:
    """What a run has found, but for what only edges have; clients' states bear the name of their run."""
    metrics = [{k: v for k, v in row.items() if k not in EDGE} for row in table(run, "metrics")]
    return {"metrics": metrics, "clients": table(run, "clients"), "model": model(run).tobytes()}


EDGE = ("edge_bytes_up", "edge_bytes_down")


@pytest.mark.parametrize(
    "others",
    [
        ("network=flaky", "clients_per_round=4"),
        pytest.param(("strategy=fedprox", "strategy.mu=adaptive"), marks=long),
        pytest.param(("compression=topk",), marks=long),
    ],
    ids=str,
)
def test_one_edge_is_fedavg_to_the_bit(
    launch: Launch, words: Callable[..., tuple[str, ...]], others: tuple[str, ...]
) -> None:
    given = (*others, "num_rounds=3", "evaluate.clients=true")
    star, one = launch(*words("star", *given)), launch(*words("hierarchical", "topology.edges=1", *given))
    assert results(one) == results(star)


@pytest.mark.parametrize("weighting", often(["examples", "uniform"], "examples"))
def test_a_cloud_after_every_edge_round_is_fedavg(
    launch: Launch, words: Callable[..., tuple[str, ...]], weighting: str
) -> None:
    """The weighted mean of weighted means, but for rounding; clients are of unequal sizes."""
    given = (f"weighting={weighting}",)
    star = launch(*words("star", *given))
    edges = launch(*words("hierarchical", "topology.edge_rounds=1", "topology.assignment=random", *given))
    assert np.abs(model(edges) - model(star)).max() < 1e-6
    later = launch(*words("hierarchical", *given))
    assert np.abs(model(later) - model(star)).max() > 1e-5


def test_the_complete_graph_is_fedavg(launch: Launch, words: Callable[..., tuple[str, ...]]) -> None:
    """Of equal clients; the mean is added up in another way, so the last bit of some numbers may be another."""
    star = launch(*words("star", *EQUAL, "local.steps=1", "num_rounds=5"))
    complete = launch(*words("complete", *EQUAL, "local.steps=1", "num_rounds=5"))
    assert np.abs(model(complete) - model(star)).max() < 1e-6
    assert all(float(row["consensus_distance"]) < 1e-6 for row in table(complete, "metrics")[1:])
    ring = launch(*words("ring", *EQUAL, "local.steps=1", "num_rounds=5"))
    assert np.abs(model(ring) - model(star)).max() > 1e-5


def test_without_links_each_is_alone(launch: Launch, words: Callable[..., tuple[str, ...]], tmp_path: Path) -> None:
    """With the identity for a matrix each trains by itself."""
    np.save(tmp_path / "w.npy", np.eye(6))
    alone, local = (
        launch(*words(*more, "evaluate.clients=true")) for more in (["file"], ["star", "strategy=local_only"])
    )
    for column in ("client", "train_loss", "client_loss", "client_accuracy"):
        assert [row[column] for row in table(alone, "clients")] == [row[column] for row in table(local, "clients")]


def test_bytes_by_hand(launch: Launch, words: Callable[..., tuple[str, ...]]) -> None:
    """A model has 7,850 numbers. In a ring each has 2 neighbours; every other round 3 edges send and receive one."""
    size = 4 * 7850
    ring = launch(*words("ring"))
    assert {(row["bytes_up"], row["bytes_down"]) for row in table(ring, "clients")} == {(str(2 * size), str(2 * size))}
    assert table(ring, "metrics")[1]["bytes_up"] == str(12 * size)
    edges = launch(*words("hierarchical"))
    for name in EDGE:
        assert [row[name] for row in table(edges, "metrics")[1:]] == ["0", str(3 * size)]
    assert {(row["bytes_up"], row["bytes_down"]) for row in table(edges, "clients")} == {(str(size), str(size))}


def test_who_drops_out_neither_sends_nor_receives(launch: Launch, words: Callable[..., tuple[str, ...]]) -> None:
    run = launch(*words("ring", "network=flaky", "num_rounds=6"))
    size, rows = 4 * 7850, table(run, "clients")
    for number in range(1, 7):
        there = {int(row["client"]) for row in rows if row["round"] == str(number) and row["status"] == "ok"}
        for row in (row for row in rows if row["round"] == str(number)):
            k = int(row["client"])
            copies = sum((k + step) % 6 in there for step in (-1, 1)) if k in there else 0
            assert (row["bytes_up"], row["bytes_down"]) == (str(copies * size), str(copies * size))
    assert {row["status"] for row in rows} == {"ok", "dropped"}


@pytest.mark.parametrize("name", often(ALL, "ring", "hierarchical"))
def test_whoever_takes_the_turns_the_bytes_are_the_same(
    launch: Launch, words: Callable[..., tuple[str, ...]], name: str
) -> None:
    given = words(name, "network=flaky", "clients_per_round=5", "evaluate.clients=true")
    packed, alone = (digests(launch(*given, *more)) for more in ((), ("engine.packing=false",)))
    assert packed == alone


@pytest.mark.parametrize("name", often(ALL, "ring", "hierarchical"))
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, launch: Launch, words: Callable[..., tuple[str, ...]], name: str
) -> None:
    """After round 3, between two means of the cloud, with models of their own."""
    given = words(name, "network=flaky", "evaluate.clients=true", "strategy=fedprox", "strategy.mu=adaptive")
    whole, part, scratch = launch(*given, "num_rounds=5"), launch(*given, "num_rounds=3"), tmp_path / "again"
    scratch.mkdir()
    assert execute(compose(*given, "num_rounds=5"), part, scratch, Start.RESUME) == 0
    assert digests(part) == digests(whole)


@long
@pytest.mark.parametrize("name", ALL)
def test_they_are_the_same_in_a_simulation(tmp_path: Path, words: Callable[..., tuple[str, ...]], name: str) -> None:
    given = words(name, "figures=false", "network=flaky", "evaluate.clients=true")
    for engine in ("inline", "simulation"):
        ended = forked(*given, f"engine={engine}", f"hydra.run.dir={engine}", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert digests(tmp_path / "simulation") == digests(tmp_path / "inline")


def test_attackers_who_know_each_other_start_from_models_of_their_own(
    launch: Launch, words: Callable[..., tuple[str, ...]]
) -> None:
    given = words("ring", "attack=min_max", "attack.clients=[0,3]")
    attacked, honest = launch(*given), launch(*words("ring"))
    assert {row["status"] for row in table(attacked, "clients")} == {"ok"}
    assert np.abs(model(attacked) - model(honest)).max() > 1e-3


REFUSED = [
    ("ring", "strategy=scaffold", "strategy: its server half is more than a plain mean"),
    ("hierarchical", "strategy=centralized", "strategy: its server half is more than a plain mean"),
    ("hierarchical", "strategy=fedavgm", "strategy: its server half is more than a plain mean"),
    ("ring", "strategy=tifl", "strategy: its server chooses whom to ask"),
    ("hierarchical", "robust=median", "robust: it makes one update of all"),
    ("hierarchical", "secure_aggregation=masks", "secure_aggregation=masks: there is one sum of all"),
    ("ring", "compression=topk", "compression: a server knows what clients have"),
    ("torus", "topology.rows=4", "topology.rows=4: 6 clients do not make so many rows"),
    ("random", "topology.degree=6", "topology.degree=6: must be from 1 to 5"),
    ("hierarchical", "topology.edges=7", "topology.edges=7: must not be more than the 6 clients"),
    ("hierarchical", "topology.assignment=[0,1,2,0,1,1,1]", "must name an edge from 0 to 2 for each of 6 clients"),
    ("ring", "topology.delay=-1", "topology.delay=-1: must be a number from 0"),
    ("file", "topology.path=null", "topology.path=None: give a .csv or .npy file"),
]


def test_a_node_without_data_is_refused(refused: Callable[..., str], words: Callable[..., tuple[str, ...]]) -> None:
    """It would stay as it is, and no model of one side would come to the other."""
    few = ("data=synthetic", "data.num_samples=60", "partition=exponential")
    assert "client 0 has nothing to train on, and would part its neighbours" in refused(*words("ring", *few))


@pytest.mark.parametrize(("name", "word", "line"), REFUSED)
def test_what_only_a_star_can_do_is_refused(
    refused: Callable[..., str], words: Callable[..., tuple[str, ...]], name: str, word: str, line: str
) -> None:
    said = refused(*words(name), word)
    assert line in said
    assert said.count("\n") == 1


def test_those_who_never_train_are_sent_the_mean(launch: Launch, words: Callable[..., tuple[str, ...]]) -> None:
    """Which is FedAvg's model where one edge has all clients."""
    given = ("num_clients=8", "partition.unseen=0.25", "partition=iid", "evaluate.clients=true")
    star, one = launch(*words("star", *given)), launch(*words("hierarchical", "topology.edges=1", *given))
    assert results(one) == results(star)
    ring = table(launch(*words("ring", *given)), "metrics")
    assert ring[0]["unseen_loss"] == table(star, "metrics")[0]["unseen_loss"]
    assert ring[2]["unseen_loss"] != ring[1]["unseen_loss"]


@pytest.mark.parametrize("name", often(["hierarchical", "ring"]))
def test_whom_strategies_of_a_plain_mean_fit(launch: Launch, words: Callable[..., tuple[str, ...]], name: str) -> None:
    for others in (("strategy=ditto",), ("strategy=fedper", "task=cifar"), ("privacy=local", "robust=norm_bound")):
        run = launch(
            *words(name, "local.steps=1", "evaluate.clients=true", "data=synthetic", "data.num_samples=300"), *others
        )
        assert [row["aggregated"] for row in table(run, "metrics")[1:]] == ["1", "1"]


@pytest.mark.parametrize(("name", "count"), [("ring", 6), ("hierarchical", 9)])
def test_a_figure_and_a_table_have_the_links(
    launch: Launch, words: Callable[..., tuple[str, ...]], name: str, count: int
) -> None:
    run = launch(*words(name, "figures=true", "num_rounds=1"))
    assert len(table(run, "topology")) == count
    drawn = {file.stem for file in (run / "figures").glob("*.png")}
    assert drawn & {"topology", "consensus"} == ({"topology", "consensus"} if name == "ring" else {"topology"})
