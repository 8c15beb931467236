"""Same seed, same bytes: whatever the engine, the number of workers and the packing."""

import json
from pathlib import Path

import pytest
from conftest import Launch, digests, forked, long

SETTINGS = (
    "task=cifar", "data=synthetic", "data.num_samples=600", "num_rounds=3", "clients_per_round=6", "figures=false",
    "partition=dirichlet", "evaluate.clients=true", "strategy=fedprox", "seed=7",
)  # fmt: skip


def run(tmp_path: Path, name: str, *words: str) -> Path:
    result = forked(*words, f"hydra.run.dir={name}", cwd=tmp_path, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2].endswith(name)
    return tmp_path / name


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("inline"), "inline", "engine=inline", *SETTINGS)


@pytest.mark.parametrize(
    "words",
    [
        ("engine=inline",),
        ("engine=inline", "engine.packing=false"),
        pytest.param(("engine.client_resources.num_cpus=2",), marks=long),
        ("engine.client_resources.num_cpus=1",),
        pytest.param(("engine.client_resources.num_cpus=0.5",), marks=long),
        pytest.param(("engine.client_resources.num_cpus=1", "engine.packing=false"), marks=long),
    ],
    ids=["again", "unpacked", "1-worker", "2-workers", "4-workers", "2-workers-unpacked"],
)
def test_the_bytes_of_every_run_are_those_of_the_first(inline: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert digests(run(tmp_path, "other", *SETTINGS, *words)) == digests(inline)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("strategy=fedavg_custom_metrics",), marks=long),
        pytest.param(
            ("strategy=fedbuff", "network=heterogeneous", "compression=quantize", "compression/down=fp16"), marks=long
        ),
    ],
    ids=["metrics", "fedbuff"],
)
def test_strategies_that_need_each_client(launch: Launch, tmp_path: Path, words: tuple[str, ...]) -> None:
    words = (*words, "num_rounds=3", "figures=false")
    simulated = run(tmp_path, "simulated", *words)
    assert digests(simulated) == digests(launch(*words))
    assert json.loads((simulated / "run.json").read_text())["status"] == "done"


@pytest.mark.parametrize(
    "words",
    [("strategy=fedrep",), ("strategy=scaffold", "compression=topk", "network=flaky")],
    ids=["fedrep", "scaffold"],
)
@long
def test_strategies_that_keep_something_at_the_client(launch: Launch, tmp_path: Path, words: tuple[str, ...]) -> None:
    words = (
        "task=cifar", "data=synthetic", "data.num_samples=300", "num_rounds=3", "figures=false", *words,
        "clients_per_round=6", "partition=pathological", "evaluate.clients=true", "local.steps=2",
    )  # fmt: skip
    simulated = digests(run(tmp_path, "simulated", *words))
    inline = digests(launch(*words, "local.lr_horizon=3"))  # it follows num_rounds, and states know their run
    assert simulated == inline
    assert any(name.startswith("state/") for name in simulated)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(("task=imdb",), marks=long),
        pytest.param(("task=text",), marks=long),
        pytest.param(("task=sam", "data=nuclei"), marks=long),
        pytest.param(("task=dcgan",), marks=long),
    ],
    ids="-".join,
)
def test_the_larger_tasks(launch: Launch, tmp_path: Path, task: tuple[str, ...]) -> None:
    words = (*task, "num_rounds=2", "local.steps=2", "clients_per_round=4", "figures=false")
    assert digests(run(tmp_path, "simulated", *words)) == digests(launch(*words))


TRAVELLING = [
    ("compression=fp16",),
    ("compression=quantize", "compression.bits=5", "compression.block=100"),
    ("compression=topk", "strategy=scaffold"),
    ("compression=random_mask", "compression/down=quantize"),
    ("compression=sketch",),
    ("compression=lowrank", "strategy=fedmedian"),
    ("compression=importance", "compression.threshold=0.7"),
    ("compression=importance", "compression.rule=gradient_norm", "strategy=scaffold"),
    ("compression=importance", "compression.rule=esgd"),
    ("network=flaky", "network.dropout=0.6"),
    ("network=heterogeneous", "network.over_select=1.5", "network.deadline_s=3"),
    ("network=heterogeneous", "strategy=fedbuff"),
    ("network=heterogeneous", "strategy=tifl"),
    ("network=heterogeneous", "strategy=oort"),
]


@pytest.mark.parametrize(
    "words", [pytest.param(w, marks=[] if k % 3 == 2 else long, id=" ".join(w)) for k, w in enumerate(TRAVELLING)]
)
def test_what_travels_and_who_drops_does_not_depend_on_who_trains_with_whom(
    launch: Launch, words: tuple[str, ...]
) -> None:
    words = (*words, "num_rounds=5", "clients_per_round=6", "data=synthetic", "data.num_samples=600")
    assert digests(launch(*words)) == digests(launch(*words, "engine.packing=false"))


def test_another_seed_has_other_bytes(inline: Path, tmp_path: Path) -> None:
    other = digests(run(tmp_path, "other", "engine=inline", *SETTINGS, "seed=8"))
    assert not set(other.values()) & set(digests(inline).values())
