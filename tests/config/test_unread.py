"""A key that nothing reads, or that has no effect, is refused; nothing that ships is."""

import inspect
from pathlib import Path

import pytest
from conftest import long, often

from fl_bench.build import find_target
from fl_bench.config.compose import GROUPS, compose, compose_with_choices, options
from fl_bench.config.origin import Origin
from fl_bench.config.schema import CONF
from fl_bench.config.unread import WHOLE, names, refuse_unread
from fl_bench.errors import ConfigError


def look(*words: str, folder: Path | None = None) -> None:
    cfg, choices = compose_with_choices(words, folder)
    refuse_unread(cfg, Origin(choices, list(words)), lambda other: compose(other, folder), folder)


OPTIONS = [(group, name) for group in GROUPS for name in options(group) if group != "model"]  # which not all tasks take


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_no_shipped_option_is_refused(group: str, name: str) -> None:
    look(f"{group}={name}")


SHARED = [name for name, file in options("experiment").items() if "override /strategy" not in file.read_text()]


@pytest.mark.parametrize("experiment", often(SHARED, *SHARED[::4]))
def test_no_experiment_is_refused_with_a_strategy_that_has_keys(experiment: str) -> None:
    look(f"experiment={experiment}", "strategy=apfl", "compression=importance", "network=flaky", "strategy.alpha=0.1")


UNREAD = [
    (["+model.name=resnet18"], "model.name: unknown key; model=logistic takes none"),
    (["+model.norm=batch"], "model.norm: unknown key; model=logistic takes none"),
    (["task=cifar", "+model.depth=3"], "model.depth: unknown key; model=blitz takes norm"),
    (["task=sam", "task.path=x", "model.train=all", "task.train=all"], "model.train: nothing reads it with task=sam; "),
    (["+strategy.lr_decay=0.9"], "strategy.lr_decay: nothing reads it with strategy=fedavg; "),
    (["strategy=fedprox", "+strategy.mew=1"], "strategy.mew: nothing reads it with strategy=fedprox; "),
    (["+strategy.inner.a=1", "+strategy.inner.b=2"], "strategy.inner.a: nothing reads it with strategy=fedavg; "),
    (["compression=topk", "+compression.bits=4"], "compression.bits: nothing reads it with compression=topk; "),
    (["+data.foo=1"], "data.foo: unknown key; data=embedded takes cache"),
    (["experiment=private", "strategy=fedavg"], "strategy.sampling: nothing reads it with strategy=fedavg; "),
    (["data=synthetic", "++data.foo=1"], "data.foo: unknown key; data=synthetic takes cache, num_samples"),
    (["+partition.alpha=1"], "partition.alpha: unknown key; partition=iid takes holdout"),
    (["+network={loss: 1}"], "network.loss: unknown key; network=ideal takes bytes_per_second_down, "),
    (["tracker=tensorboard", "+tracker.uri=x"], "tracker.uri: unknown key; tracker=tensorboard takes none"),
]


@pytest.mark.parametrize(("words", "line"), UNREAD, ids=[" ".join(words) for words, _ in UNREAD])
def test_a_key_that_nothing_reads(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        look(*words)
    assert str(error.value).startswith(line)


READ = [
    ["task=sam", "task.train=all"],  # it replaces what read model.train, which nobody has named
    ["strategy=fedprox", "strategy.server.mu=1"],
    ["strategy=fedbuff", "strategy.buffer=${num_clients}"],
    ["+local.optimizer.weight_decay=1e-4"],
    ["+strategy.share=0.5", "partition.holdout=${strategy.share}"],  # read from another group
    ["+strategy.deep.share=0.5", "+strategy.above=${.deep.share}", "partition.holdout=${strategy.above}"],
    ["+strategy.sizes={a: 1}", "+task.sizes=${strategy.sizes}"],  # read as a whole
    ["partition._target_=fl_bench.data.partition.dirichlet", "+partition.alpha=1"],  # which another function takes
    ["data.source=synthetic", "+data.num_samples=1"],
    ["+engine.client_resources.foo=1"],  # the engine looks into what it is given
]


@pytest.mark.parametrize("words", READ, ids=" ".join)
def test_what_is_read_is_not_refused(words: list[str]) -> None:
    look(*words)


TREES = ("task=tabular", "strategy=fedxgb_bagging")
TRACES = "network.traces=t.csv"
SILENT = [
    (["local.epochs=5"], "local.epochs=5: has no effect: local.steps=4 wins; add local.steps=null"),
    (["experiment=contrast", "task=mnist"], "local.epochs=3: has no effect: local.steps=4 wins; "),
    ([*TREES, "local.lr=1.0"], "local.lr=1.0: has no effect: model=trees takes no steps along a gradient; "),
    ([*TREES, "+local.optimizer.momentum=0.9"], "local.optimizer.momentum=0.9: has no effect: model=trees takes no"),
    (["local={epochs: 5}"], "local.epochs=5: has no effect: "),
    (["evaluate.adapt_steps=3"], "evaluate.adapt_steps=3: has no effect: clients are not evaluated; add evaluate."),
    (["early_stop.patience=3"], "early_stop.patience=3: has no effect: there is no metric to watch; add early_stop."),
    (["target_metric=test_loss"], "target_metric=test_loss: has no effect: there are no targets; add 'targets="),
    (["compression=importance", "compression.share=1"], "compression.share=1: has no effect: compression.rule=cmfl"),
    (["compression=importance", "compression.fraction=1"], "compression.fraction=1: has no effect: compression.rule"),
    (["network.deadline_s=2"], "network.deadline_s=2: has no effect: everybody answers at once; add network=heterog"),
    (["network.spread=2"], "network.spread=2: has no effect: everybody answers at once; add network=heterogeneous"),
    (["strategy=perfedavg", "strategy.delta=1"], "strategy.delta=1: has no effect: strategy.order=first does not"),
]


@pytest.mark.parametrize(("words", "line"), SILENT, ids=[" ".join(words) for words, _ in SILENT])
def test_a_key_without_effect(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        look(*words)
    assert str(error.value).startswith(line)


EFFECTIVE = [
    ["local.epochs=5", "local.steps=null"],
    ["task=cifar", "local.epochs=5"],
    ["experiment=contrast", "local.steps=2"],  # the word comes after the experiment
    ["experiment=drift", "local.epochs=2"],
    ["experiment=adaptation", "evaluate.adapt_steps=1"],
    ["evaluate.adapt_steps=0"],  # that none are taken is true
    ["early_stop.metric=test_loss", "early_stop.patience=3"],
    ["targets=[1]", "target_metric=test_loss"],
    ["task=dcgan"],  # names target_metric for those who have targets
    ["compression=importance", "compression.rule=esgd", "compression.fraction=0.5"],
    ["compression=topk", "compression.fraction=0.5"],
    ["strategy=perfedavg", "strategy.order=hessian_free", "strategy.delta=1"],
    ["network=heterogeneous", "network.spread=2"],
    ["network.deadline_s=2", "network.dropout=0.5"],  # the server waits for those who do not answer
    ["network.deadline_s=2", "network.seconds_per_step=1"],
    ["network.spread=0"],
    ["network=heterogeneous", TRACES, "network.dropout=0.5"],
]


@pytest.mark.parametrize("words", EFFECTIVE, ids=" ".join)
def test_what_has_an_effect_is_not_refused(words: list[str]) -> None:
    look(*words)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


def test_traces_silence_the_speeds_that_an_experiment_of_ones_own_sets(tmp_path: Path) -> None:
    text = "# @package _global_\ndefaults: [{override /network: heterogeneous}]\nnetwork: {spread: 2}\n"
    write(tmp_path, "experiment/mine.yaml", text)
    look("experiment=mine", folder=tmp_path)
    look("experiment=mine", TRACES, folder=tmp_path)  # the word comes later and may know better
    write(tmp_path, "experiment/mine.yaml", text + "evaluate: {adapt_steps: 2}\n")
    with pytest.raises(ConfigError, match=r"evaluate\.adapt_steps=2: has no effect"):
        look("experiment=mine", folder=tmp_path)
    look("experiment=mine", "evaluate.clients=true", folder=tmp_path)


@pytest.mark.parametrize("key", ["seconds_per_step", "bytes_per_second_up", "bytes_per_second_down", "spread"])
def test_a_word_for_a_speed_beside_traces(key: str, tmp_path: Path) -> None:
    write(tmp_path, "experiment/traced.yaml", "# @package _global_\nnetwork: {traces: t.csv}\n")
    with pytest.raises(ConfigError, match=rf"network\.{key}=3: has no effect: network\.traces=t\.csv has the devices"):
        look("experiment=traced", f"network.{key}=3", folder=tmp_path)


def test_an_option_of_ones_own_is_looked_at_too(tmp_path: Path) -> None:
    text = "mu: 1\nserver: {_target_: flwr.serverapp.strategy.FedAvg}\nclient: {_target_: mine.Half, mu: '${..mu}'}\n"
    look("strategy=mine", folder=write(tmp_path, "strategy/mine.yaml", text))
    write(tmp_path, "strategy/mine.yaml", text + "nu: 1\n")
    with pytest.raises(ConfigError, match=r"strategy\.nu: nothing reads it with strategy=mine"):
        look("strategy=mine", folder=tmp_path)


def test_a_share_of_attackers_beside_their_numbers(tmp_path: Path) -> None:
    text = (CONF / "attack/mimic.yaml").read_text().replace("clients: null", "clients: [1]")
    look("attack=mine", folder=write(tmp_path, "attack/mine.yaml", text))
    with pytest.raises(ConfigError, match=r"attack\.fraction=0\.3: has no effect: attack\.clients=\[1\] wins"):
        look("attack=mine", "attack.fraction=0.3", folder=tmp_path)


@long
def test_our_options_have_all_keys_that_they_take() -> None:
    given = {
        "model": {"shape", "num_classes", "vocabulary", "folder", "alphabet"},
        "partition": {"columns", "num_clients", "rng"},
        "shift": {"columns", "partition", "classes", "seed"},
        "data_drift": {"seed", "data", "partition", "unseen"},
        "attack": {"seed", "num_clients", "num_classes"},
        "robust": {"seed"},
        "privacy": {"seed"},
        "network": {"seed", "steps", "bytes_down", "bytes_up"},
        "topology": {"seed", "weights", "num_bytes"},
    }
    for group in set(WHOLE) - {"data"}:
        for name in options(group):
            node = compose([f"{group}={name}"])[group]
            if group == "model" and "_target_" not in node:
                continue  # the task reads its keys
            takes = inspect.signature(find_target(node)).parameters.keys() - given.get(group, set())
            assert takes <= node.keys(), f"{group}={name}"


def test_the_keys_that_words_name() -> None:
    words = ["seed=1", "local={epochs: 5, optimizer: {name: Adam}}", "+model.a=[1]", "~figures", "strategy=fedprox"]
    assert names(words) == {"seed", "local.epochs", "local.optimizer.name", "model.a", "strategy"}
