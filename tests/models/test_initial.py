"""Runs that begin from a model: its values, what may differ, and what a run keeps of it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Launch, compose, digests, forked, long, often, table
from safetensors.torch import load_file, save_file
from torch import nn

from fl_bench import commands
from fl_bench.build import build
from fl_bench.config.changes import matters
from fl_bench.errors import ConfigError
from fl_bench.federation.local import Trainer
from fl_bench.models.initial import take
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task

SMALL = ("data=synthetic", "data.num_samples=200", "num_clients=4", "num_rounds=2", "local.steps=2")
COMMAND = (*SMALL, "engine=inline", "figures=false")
HELD = ("partition.holdout=0.25", "evaluate.clients=true")


def saved(file: Path, **tensors: Any) -> Path:
    save_file({name.replace("_", "."): torch.tensor(values) for name, values in tensors.items()}, file)
    return file


def test_values_names_and_shapes_by_hand(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    head = model[1].weight.tolist()
    file = saved(tmp_path / "x.safetensors", **{"0_weight": [[1.0, 2.0]], "0_bias": [3.0], "1_bias": [4.0, 5.0]})
    assert take(model, file, "key", {"1.weight"}) == ["1.weight"]
    assert model[0].weight.tolist() == [[1.0, 2.0]]
    assert (model[0].bias.tolist(), model[1].bias.tolist()) == ([3.0], [4.0, 5.0])
    assert model[1].weight.tolist() == head
    with pytest.raises(ConfigError) as error:
        take(model, file, "key", ())
    assert str(error.value) == (
        "key: 1 of 4 tensors do not fit: 1.weight is missing in the file and float32 [2, 1] in the model"
    )
    three = saved(tmp_path / "three.safetensors", **{"0_weight": [[6.0, 7.0]], "0_bias": [8.0], "1_bias": [0.0] * 3})
    with pytest.raises(ConfigError, match=r"^key: 2 of 4 .* 1\.weight is missing in .*; model\.init_skip=\[PATTERN\]"):
        take(model, three, "key", (), [])
    assert take(model, three, "key", (), ["1.*"]) == ["1.weight", "1.bias"]
    assert (model[0].bias.tolist(), model[1].bias.tolist()) == ([8.0], [4.0, 5.0])
    with pytest.raises(ConfigError, match=r"^model\.init_skip: 2\.\* is the name of no tensor; the model has 0\.wei"):
        take(model, three, "key", (), ["1.*", "2.*"])
    more = saved(tmp_path / "more.safetensors", **{"0_weight": [[1.0, 2.0]], "0_bias": [3.0], "head": [1]})
    with pytest.raises(ConfigError, match=r"head is int64 \[1\] in the file and missing in the model"):
        take(model, more, "key", {"1.weight", "1.bias"})


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda f: f.write_bytes(f.read_bytes()[:-1]), "is damaged: "),
    "empty": (lambda f: f.write_bytes(b""), "is damaged: "),
    "other shape": (lambda f: saved(f, **{"1_weight": [[1.0]], "1_bias": [1.0] * 10}),
                    "1 of 2 tensors do not fit: 1.weight is float32 [1, 1] in the file and float32 [10, 784] in"),
    "integers": (lambda f: save_file({"1.weight": torch.ones(10, 784).long(), "1.bias": torch.ones(10)}, f),
                 "1.weight is int64 [10, 784] in the file"),
    "not finite": (lambda f: save_file({"1.weight": torch.ones(10, 784) / 0, "1.bias": torch.ones(10)}, f),
                   "1.weight has values that are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_a_run_does_not_begin_from(kind: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    spoil, line = BAD[kind]
    file = tmp_path / "x.safetensors"
    save_file({"1.weight": torch.zeros(10, 784), "1.bias": torch.zeros(10)}, file)
    spoil(file)
    said = refused(*SMALL, f"model.init={file}").splitlines()
    assert said[-1].startswith(f"fl-bench: model.init={file}: ")
    assert line in said[-1]


def run(folder: Path, *words: str) -> int:
    return commands.call("run", [*COMMAND, *words, f"hydra.run.dir={folder}"])


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("model.init=nowhere", "there is no file nowhere"),
        ("model.init=.", "/model.safetensors"),
        (
            "model.init=x.pt",
            "must be the folder of a run or a .safetensors file, as a pickle may run code; save_file(to",
        ),
        ("model.init=3", "must be a folder or a file, or null"),
        ("model.init_skip=x", "must be a list of patterns"),
        ("model.init_skip=[1*]", "has no effect: all of the model begins as the seed makes it; add model.init=FILE"),
        ("model.init=run", "is in the folder of the run that this one replaces"),
    ],
)
def test_a_wrong_key_is_a_line(word: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("x.pt").write_bytes(b"")
    if word == "model.init=run":
        assert run(Path("run")) == 0
    capsys.readouterr()
    assert run(Path("run"), word, "overwrite=true") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"fl-bench: {word.split('=')[0]}=")
    assert line in said


def measured(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name.startswith(("test_", "client_"))}


TASKS = {
    "mnist": (), "cifar": ("model=resnet8", "data=synthetic", "data.num_samples=100"), "tabular": (),
    "series": ("model=gru",), "imdb": (), "dcgan": ("model.share=generator",), "sam": (),
}  # fmt: skip


@pytest.mark.parametrize("task", often(TASKS, "mnist", "cifar", "tabular", "dcgan"))
@pytest.mark.usefixtures("quick_judge")
def test_a_run_begins_where_another_has_ended(task: str, launch: Launch) -> None:
    words = ("num_clients=2", f"task={task}", "local.steps=1", "num_rounds=1", *TASKS[task])
    first = launch(*words)
    then = launch(*words, f"model.init={first}")
    (before, after), (begin, _) = table(first, "metrics"), table(then, "metrics")
    assert measured(begin) == measured(after) != measured(before)


def test_layers_of_the_clients_begin_from_the_file_where_it_has_them(
    launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("num_clients=4", *HELD, "task=tabular", "num_rounds=1")
    whole = launch(*words)
    plain, fedper = (launch(*words, f"model.init={whole}", f"strategy={name}") for name in ("fedavg", "fedper"))
    capsys.readouterr()
    clients = [{name: value for name, value in measured(table(run, "metrics")[0]).items() if name.startswith("client_")}
               for run in (plain, fedper)]  # fmt: skip
    assert clients[0] == clients[1]
    assert clients[0]["client_loss"] != table(launch(*words), "metrics")[0]["client_loss"]
    without = load_file(fedper / "model.safetensors")
    assert without.keys() < load_file(whole / "model.safetensors").keys()
    capsys.readouterr()
    launch(*words, f"model.init={fedper}", "strategy=fedper")
    heads = sorted(load_file(whole / "model.safetensors").keys() - without.keys())
    assert f"note: model.init: {', '.join(heads)}: as the seed makes them" in capsys.readouterr().err


def test_a_head_of_other_size_is_left_out(tmp_path: Path, launch: Launch) -> None:
    words = ("task=tabular", "num_clients=2", "num_rounds=1")
    ours = load_file(launch(*words) / "model.safetensors")
    weight, bias = "3.weight", "3.bias"
    file = tmp_path / "three.safetensors"
    save_file(ours | {weight: torch.zeros(3, 32), bias: torch.zeros(3)}, file)

    def begun(scratch: str, *more: str) -> Trainer:
        (tmp_path / scratch).mkdir()
        cfg = compose(*words, *more)
        return prepare(cfg, build(cfg.task, Task), tmp_path / scratch)

    with pytest.raises(ConfigError, match=f"2 of {len(ours)} tensors do not fit: .* in the file and .* in the model"):
        begun("refused", f"model.init={file}")
    plain = dict(begun("plain").flat.model.state_dict())
    trainer = begun("left", f"model.init={file}", f"model.init_skip=[{bias.removesuffix('bias')}*]")
    assert sorted(trainer.untaken) == sorted([weight, bias])
    for name, tensor in trainer.flat.model.state_dict().items():
        assert torch.equal(tensor, (plain if name in (weight, bias) else ours)[name]), name


def test_a_head_that_told_other_classes_apart_is_said(
    tmp_path: Path, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (low, high) in {"pets": ("cat", "dog"), "wild": ("ape", "elk")}.items():
        rows = "".join(f"{x}.5,{low if x < 20 else high}\n" for x in range(40))
        (tmp_path / f"{name}.csv").write_text(f"x,label\n{rows}")

    words = ("task=tabular", "data=csv", "data.label=label", "num_clients=2", "num_rounds=1")

    def said(name: str, *more: str) -> str:
        launch(*words, f"data.root={tmp_path / name}.csv", *more)
        return capsys.readouterr().err

    first = launch(*words, f"data.root={tmp_path}/pets.csv")
    line = f"note: model.init={first}: its classes are others, cat where this data has ape; 'model.init_skip=[3.*]' "
    assert line in said("wild", f"model.init={first}")
    file = first / "model.safetensors"
    assert line.replace(str(first), str(file)) in said("wild", f"model.init={file}")
    assert "classes" not in said("wild", f"model.init={first}", "model.init_skip=[3.*]")
    assert "classes" not in said("pets", f"model.init={first}")


def test_a_run_keeps_what_it_began_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, run_a, whole = (tmp_path / name for name in ("first", "run", "whole"))
    assert run(first) == 0
    file = first / "model.safetensors"
    content, seal = file.read_bytes(), hashlib.sha256(file.read_bytes()).hexdigest()
    begun = (f"model.init={first}", "seed=1", *HELD)
    assert run(run_a, *begun) == run(whole, *begun, "num_rounds=3") == 0
    record = json.loads((run_a / "run.json").read_text())
    assert record["data"]["init"] == seal
    assert (run_a / "init.safetensors").read_bytes() == content
    shutil.rmtree(first)
    run_dir = str(run_a)
    assert commands.call("rerun", [run_dir]) == 0
    assert commands.call("replay", [run_dir, "--round", "1", "--client", "2"]) == 0
    assert commands.call("resume", [run_dir, "num_rounds=3"]) == 0
    assert digests(run_a) == digests(whole)
    (run_a / "init.safetensors").unlink()
    capsys.readouterr()
    assert commands.call("rerun", [run_dir]) == 2
    assert (
        capsys.readouterr().err
        == f"fl-bench: model.init={run_a}/init.safetensors: there is no file {run_a}/init.safetensors\n"
    )


def test_a_run_does_not_go_on_from_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, then = (tmp_path / name for name in ("first", "second", "then"))
    assert run(first) == run(second, "seed=1") == run(then, f"model.init={first}") == 0
    same = shutil.copytree(first, tmp_path / "same")
    words = [str(then), "num_rounds=3"]
    capsys.readouterr()
    assert commands.call("resume", [*words, f"model.init={second}"]) == 2
    line = "fl-bench: model.init: is not what the run began with, so it cannot go on with it"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert commands.call("resume", [*words, "model.init=null"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert commands.call("resume", [*words, f"model.init={same}"]) == 0
    assert commands.call("verify", [str(first), str(then)]) == 1
    assert "differs: init: differs\n" in capsys.readouterr().out
    assert not matters("model.init")
    assert matters("model.init_skip")


@long
def test_the_same_bytes_on_the_simulation(tmp_path: Path, launch: Launch) -> None:
    first = launch(*SMALL)
    inline = launch(*SMALL, f"model.init={first}", "strategy=fedper", *HELD, "local.lr_horizon=2")
    words = (*SMALL, f"model.init={first}", "strategy=fedper", *HELD, "figures=false", "engine=simulation")
    assert forked(*words, f"hydra.run.dir={tmp_path}/sim", cwd=tmp_path).returncode == 0
    assert digests(tmp_path / "sim") == digests(inline)
