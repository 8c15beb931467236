"""What a user may type: every mistake is one line and exit code 2."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import compose, fl_bench, leftovers, long
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_bench import cli
from fl_bench.config.compose import GROUPS
from fl_bench.config.schema import CONF
from fl_bench.errors import ConfigError

Words = Callable[..., tuple[str | int | None, list[str]]]  # to the exit code and what is wrong


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Words:
    """Call the command line in this process and return its exit code and what it says is wrong."""

    def call(*arguments: str) -> tuple[str | int | None, list[str]]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["fl-bench", "engine=inline", "figures=false", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        lines = capsys.readouterr().err.splitlines()
        return end.value.code, [line for line in lines if "preparing engine" not in line]  # what says that it begins

    return call


BAD = [
    ("num_roundss=3", "num_roundss: unknown key; did you mean num_rounds?"),
    ("local.lrr=3", "local.lrr: unknown key; did you mean local.lr?"),
    ("+foo=1", "foo: unknown key; fl-bench --help lists the keys"),
    ("+local.foo=1", "local.foo: unknown key; known: accumulate, batch_size, clip_norm, "),
    ("+engine.foo=1", "engine.foo: unknown key; engine=inline takes client_resources, "),
    ("+evaluate.foo=1", "evaluate.foo: unknown key; known: adapt_steps, batch_size, clients, every"),
    ("+data.val=0.1", "data.val: unknown key; data=embedded takes cache"),
    ("lr=0.1", "lr: unknown key; did you mean local.lr?"),
    ("+lr=0.1", "lr: unknown key; did you mean local.lr?"),
    ("local.learning_rate=0.1", "local.learning_rate: unknown key; did you mean local.lr?"),
    ("startegy=fedavg", "startegy: unknown key; did you mean strategy?"),
    ("+startegy=fedavg", "startegy: unknown key; did you mean strategy?"),
    ("data.num_samples=100", "data.num_samples: unknown key; data=synthetic has it"),
    ("num_samples=100", "num_samples: unknown key; did you mean data.num_samples, which data=synthetic has?"),
    ("model.norm=batch", "model.norm: unknown key; model=blitz or model=hf or model=mobilenet or another has it"),
    ("strategy.mu=1", "strategy.mu: unknown key; strategy=fedprox or strategy=moon has it"),
    ("strategy=fedavgg", "strategy=fedavgg: did you mean fedavg?"),
    ("task=mnst", "task=mnst: did you mean mnist?"),
    ("data=nothing", "data=nothing: known: csv, digits, disk, embedded, flights, folder, full, har, heart, "),
    ("num_rounds=abc", "num_rounds: Value 'abc' of type 'str' could not be converted to Integer"),
    ("num_rounds=1.5", "num_rounds: Value '1.5' of type 'float' could not be converted to Integer"),
    ("num_rounds=null", "num_rounds: "),
    ("num_rounds=0", "num_rounds=0: must be 1 or more"),
    ("~num_rounds", "num_rounds: has no value"),
    ("seed=-1", "seed=-1: must be between 0 and 2**63 - 1"),
    ("local.lr=0", "local.lr=0.0: must be a positive number"),
    ("local.lr_schedule=cosin", "local.lr_schedule=cosin: must be one of constant, exponential, step, cosine"),
    ("local.lr_decay=0.9", "local.lr_decay=0.9: has no effect: local.lr_schedule=constant does not use it; add "),
    ("local.lr_warmup=-1", "local.lr_warmup=-1: must be 0 or more"),
    (
        "local.decay=weights",
        "local.decay=weights: has no effect: nothing decays; add +local.optimizer.weight_decay=1e-3",
    ),
    ("local.clip_norm=0", "local.clip_norm=0.0: must be a positive number, or null"),
    ("local.precision=fp16", "local.precision=fp16: must be one of float32, bf16"),
    ("local.lr=nan", "local.lr=nan: must be a positive number"),
    ("local.steps=0", "local.steps=0: must be 1 or more, or null to count in epochs"),
    ("local.optimizer.name=Sdg", "local.optimizer={'name': 'Sdg'}: torch.optim says:"),
    ("clients_per_round=11", "clients_per_round=11: must not be more than num_clients=10"),
    ("num_clients=4001", "num_clients=4001: there are only 4000 samples to share out"),
    ("partition.holdout=1", "partition.holdout=1: must be from 0 to below 1"),
    ("partition.alpha=1", "partition.alpha: unknown key"),
    ("evaluate.clients=maybe", "evaluate.clients: "),
    ("engine.client_resources.num_cpus=1000", "engine.client_resources.num_cpus=1000: must be more than 0"),
    ("~engine.client_resources.num_gpus", "engine.client_resources: needs num_gpus"),
    ("engine.client_resources.num_gpus=99", "engine.client_resources.num_gpus=99: torch finds"),
    (
        "engine.client_resources.num_gpus=some",
        "engine.client_resources.num_gpus=some: must be a number from 0, or auto",
    ),
    ("hydra.run.dir=/dev/null/x", "hydra.run.dir: cannot be written: /dev/null/x (Not a directory)"),
    ("num_rounds=[1", "num_rounds=[1: cannot be read; if its value is meant as it stands: \"num_rounds='[1'\""),
    ("num_rounds", "num_rounds: is neither a verb nor key=value; known: audit, certs, check, "),
    ("list", "list: a verb comes first"),
    ("", "'': is neither a verb nor key=value; known: audit, certs, check, "),
    ("=", "=: has no key; say KEY=VALUE"),
    ("@x=3", "@x=3: has no key; say KEY=VALUE"),
    ("engine.threads=9999999", "engine.threads=9999999: must be "),
    ("num_rounds=2147483648", "num_rounds=2147483648: must be at most 2147483647"),
    ("num_clients=99999999", "num_clients=99999999: must be at most 10000000"),
    ("seed=99999999999999999999", "seed=99999999999999999999: is too large a number"),
    (f"local.lr=1{'0' * 400}", "local.lr: is too large a number"),
    ("++targets=[{a: 1}]", "targets=[{'a': 1}]: must be finite numbers"),
    ("targets=[nan]", "targets=[nan]: must be finite numbers"),
    ("strategy={a: 1}", "strategy={a: 1}: must name one option; known: apfl, "),
    ("strategy=null", "strategy=null: must name one option; known: apfl, "),
    ("experiment=published/flgoo", "experiment=published/flgoo: did you mean published/flgo_cifar10?"),
    ("evaluate.metrics=auc", "evaluate.metrics: must be a list; say 'evaluate.metrics=[...]'"),
    ("experiment=null", "experiment=null: must name one option; known: adaptation, "),
    ("engine=null", "engine=null: must name one option; known: deployment, inline, simulation"),
    ("~strategy", "strategy.server=None: must be a mapping with a _target_; the yaml that is chosen as strategy="),
    ("strategy.mu=0.1", "strategy.mu: unknown key; strategy=fedprox or strategy=moon has it"),
    ("seed=range(0)", "Sweep parameters 'seed=range(0)' requires --multirun"),
    ("local.optimizer.name=LBFGS", "local.optimizer.name=LBFGS: cannot take the steps of local training: "),
    ("local.optimizer.name=SparseAdam", "local.optimizer.name=SparseAdam: cannot take the steps of local training: "),
    ("engine._target_=os.path.join", "engine._target_=os.path.join: must name a class derived from Engine"),
    (
        "partition._target_=collections.Counter",
        "partition._target_=collections.Counter: must return an integer for each training row, the client who owns it",
    ),
    ("task._target_=collections.Counter", "task._target_=collections.Counter: must name a class derived from Task"),
    (
        "strategy.client._target_=flwr.serverapp.strategy.FedAvg",
        "strategy.client._target_=flwr.serverapp.strategy.FedAvg: must name a class derived from LocalAlgorithm",
    ),
    (
        "target_metric=it's",
        "target_metric=it's: cannot be read; if its value is meant as it stands: \"",
    ),
    ("study=mine", "study=mine: is more than one run: say -m too"),
    ("num_clients=${nope}", "num_clients: Interpolation key 'nope' not found"),
]


@pytest.mark.parametrize(("word", "line"), BAD, ids=[word[:80] for word, _ in BAD])
def test_a_mistake_is_named_in_one_line(words: Words, word: str, line: str) -> None:
    code, lines = words(word)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"fl-bench: {line}")


SEVERAL = [
    (["data=full", "data.root=/nowhere"], "data.root=/nowhere: holds no readable MNIST"),
    (["data=full", "data.dataset=MNST"], "data.dataset=MNST: did you mean MNIST?"),
    (["data=synthetic", "data.num_samples=many"], "data.num_samples=many: should be a valid integer"),
    (["data=synthetic", "data.num_samples=0"], "data.num_samples=0: must be at least 1"),
    (["data=full", "data.root="], "data.root=: must not be empty"),
    (["task=images", "data=folder", "data.root="], "data.root=: must not be empty"),
    (
        ["task=tabular", "data=csv", "data.root=x", "data.label=y", "data.features=x"],
        "data.features=x: should be a list, such as [x]",
    ),
    (["data.source=magic"], "data.source=magic: Mnist has no such data; known: embedded, full, synthetic"),
    (["partition=dirichlet", "partition.alpha=x"], "partition.alpha=x: must be a positive number"),
    (["-m", "partition=dirichlet", "partition.alpha=0.1,-1"], "partition.alpha=-1: must be a positive number"),
    (["-m", "hydra.sweep.dir=/dev/null/x", "seed=0,1"], "hydra.sweep.dir: cannot be written: /dev/null/x (Not a"),
    (["strategy=fedprox", "strategy.mu=high"], "strategy.mu=high: should be a valid number or 'adaptive'"),
    (["strategy=fedprox", "strategy.mu=-1"], "strategy.mu=-1: must be a number from 0, or adaptive"),
    (["strategy=fedtrimmedavg", "strategy.beta=0.7"], "strategy.beta=0.7: must be from 0 to below 0.5"),
    (["network.dropout=" + 48 * "[" + 48 * "]"], "network.dropout: its lists are nested too deep"),
    (["compression=quantize", "compression.bits=0"], "compression.bits=0: must be from 1 to 16"),
    (["task=dcgan", "local.accumulate=2"], "local.accumulate=2: task Dcgan has steps of its own, of whole batches; "),
    (["hydra.run.dir=a folder/ü", "num_rounds=0"], "num_rounds=0: must be 1 or more"),  # the folder needs no quotes
    (["-m", "seed=interval(0,1)"], "BasicSweeper does not support sweep type"),
    (["-m", "seed=range(0)"], "seed=range(0): is a sweep over nothing"),
    (["-m", "strategy=glob(none*)"], "strategy=glob(none*): is a sweep over nothing"),
    (["--config-name", "foo"], "--config-name foo: there is no such yaml in conf/ or in --config-dir"),
    (["evaluate.clients=true", "partition.holdout=0"], "evaluate.clients=true: no client holds out a sample"),
    (["strategy=fedavg_custom_metrics", "evaluate.clients=false"], "evaluate.clients=false: this strategy"),
    (["strategy.server._target_=os.nope"], "strategy.server._target_=os.nope: Error loading 'os.nope'"),
]


@pytest.mark.parametrize(("arguments", "line"), SEVERAL, ids=[" ".join(a) for a, _ in SEVERAL])
def test_mistakes_in_several_words(words: Words, arguments: list[str], line: str) -> None:
    code, lines = words(*arguments)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"fl-bench: {line}")


@pytest.mark.parametrize("partition", ["dirichlet", "dirichlet_equal", "dirichlet_sizes"])
def test_what_needs_no_data_is_refused_before_any_process_starts(partition: str) -> None:
    with pytest.raises(ConfigError, match=r"^partition\.alpha=0: must be a positive number$"):
        compose(f"partition={partition}", "partition.alpha=0")
    own = compose(f"partition={partition}", "partition._target_=mine.partition", "partition.alpha=0")
    assert own.partition.alpha == 0


INTEGERS = [
    "seed",
    "num_rounds",
    "num_clients",
    "clients_per_round",
    "local.epochs",
    "local.batch_size",
    "evaluate.every",
]
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).map(lambda name: f"x{name}")
NEGATIVE = st.integers(-(10**9), -1).map(str)
KEYS = st.sampled_from(INTEGERS)
NUMBERS = st.sampled_from(["local.lr", "partition.holdout", "engine.client_resources.num_cpus"])
NODES = st.sampled_from(["local", "evaluate", "task", "strategy", "engine"])
ANY_TEXT = st.text(min_size=1, max_size=10).filter(lambda text: "\x00" not in text)
WRONG = st.one_of(
    st.tuples(KEYS, st.one_of(NAMES, st.floats(-100, -0.1).map(str), NEGATIVE, st.just("[1,2]"))).map("=".join),
    st.tuples(NUMBERS, st.one_of(NAMES, NEGATIVE, st.sampled_from(["nan", "inf", "[]", "null"]))).map("=".join),
    st.tuples(st.one_of(NAMES, st.sampled_from(GROUPS)), NAMES).map("=".join),
    st.tuples(NODES, NAMES).map(lambda pair: f"{pair[0]}.{pair[1]}=1"),
    NAMES,
    KEYS.map(lambda key: f"~{key}"),
    ANY_TEXT.map(lambda text: f"num_rounds=x{text}"),
)


EXAMPLES = int(os.environ.get("FL_BENCH_EXAMPLES", "160")) // 4  # each composes a config, a third of a second


@pytest.mark.timeout(900)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(WRONG, min_size=1, max_size=3))
def test_no_wrong_override_ends_in_a_traceback(words: Words, wrong: list[str]) -> None:
    code, lines = words(*wrong)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("fl-bench: ")


def test_the_command_refuses_quickly_and_without_a_traceback(tmp_path: Path) -> None:
    start = time.monotonic()
    result = fl_bench("strategy=fedprox", "strategy.mu=high", cwd=tmp_path)
    assert time.monotonic() - start < 20  # promised: 10 s on an idle machine
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "fl-bench: mnist with fedprox, 10 clients, 100 rounds: preparing engine and data",
        "fl-bench: strategy.mu=high: should be a valid number or 'adaptive'",
    ]


def test_list_names_every_option(tmp_path: Path) -> None:
    result = fl_bench("list", cwd=tmp_path)
    assert result.returncode == 0
    for group in GROUPS:
        assert f"{group}=\n" in result.stdout
        for file in (CONF / group).glob("*.yaml"):
            assert f"\n  {file.stem} " in result.stdout


def test_a_run_leaves_its_files_and_says_where(tmp_path: Path) -> None:
    result = fl_bench("engine=inline", "num_rounds=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.splitlines()[-2])
    assert folder.parent == tmp_path / "outputs" / "mnist" / "fedavg"
    assert {file.name for file in folder.iterdir()} == {
        "metrics.csv", "clients.csv", "timing.csv", "partition.csv", "split.csv.gz", "model.safetensors", "run.json",
        "per_class.csv", "confusion.csv", "figures", ".hydra", "checkpoint",
    }  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["exit_code"], record["seed"]) == ("done", 0, 0)
    assert record["final"]["round"] == 2
    assert record["versions"]["flwr"].startswith("1.41")
    assert "test_accuracy=" in result.stdout.splitlines()[-1]
    assert "${" not in (folder / ".hydra" / "config.yaml").read_text()


def test_a_wrong_key_beside_an_option_of_ones_own_is_explained_too(tmp_path: Path) -> None:
    (tmp_path / "mine" / "partition").mkdir(parents=True)
    (tmp_path / "mine" / "partition" / "own.yaml").write_text("_target_: fl_bench.data.partition.iid\nholdout: 0.5\n")
    result = fl_bench("--config-dir", "mine", "partition=own", "local.lrr=3", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == ["fl-bench: local.lrr: unknown key; did you mean local.lr?"]


@long
def test_a_sweep_makes_a_folder_for_each_cell(tmp_path: Path) -> None:
    result = fl_bench(
        "-m", "engine=inline", "figures=false", "num_rounds=1", "partition=dirichlet", "partition.alpha=0.1,1.0",
        "sweep.parallel=1",
        "seed=0,1", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    cells = sorted(path.parent for path in tmp_path.glob("outputs/multirun/*/*/metrics.csv"))
    assert len(cells) == 4
    partitions = {(cell / "partition.csv").read_text() for cell in cells}
    assert len(partitions) == 4


@long
def test_one_bad_cell_of_a_sweep_gives_the_sweep_its_exit_code(tmp_path: Path) -> None:
    words = ("engine=inline", "figures=false", "num_rounds=1", "sweep.parallel=1")
    result = fl_bench("-m", *words, "num_clients=2,5000,3", cwd=tmp_path)
    assert result.returncode == 2
    assert len(list(tmp_path.glob("outputs/multirun/*/*/model.safetensors"))) == 2


def test_a_sweep_is_refused_before_its_first_run(words: Words, tmp_path: Path) -> None:
    assert words("-m", "seed=0,1,-1") == (2, ["fl-bench: seed=-1: must be between 0 and 2**63 - 1"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("engine", "sign"),
    [
        ("inline", signal.SIGINT),
        pytest.param("inline", signal.SIGTERM, marks=long),
        pytest.param("simulation", signal.SIGINT, marks=long),
        pytest.param("simulation", signal.SIGTERM, marks=long),
    ],
)
def test_an_interrupted_run_keeps_its_rows_and_leaves_nothing_running(
    tmp_path: Path, engine: str, sign: signal.Signals
) -> None:
    command = [
        str(Path(sys.executable).with_name("fl-bench")),
        f"engine={engine}",
        "num_rounds=100000",
        "hydra.run.dir=run",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 4):
        time.sleep(0.1)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "fl-bench: stopped" in errors
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("interrupted", 130)
    rows = metrics.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(k) for k in range(len(rows) - 1)]
    assert not leftovers(tmp_path)
