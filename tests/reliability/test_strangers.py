"""A run's folder from somebody else: nothing outside of it is written, deleted or followed, and nothing is a riddle."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import compose

from fl_bench import commands
from fl_bench.errors import ConfigError, Damaged, FlBenchError
from fl_bench.runs.begin import Start, claim
from fl_bench.runs.execute import execute
from fl_bench.storage import run_json
from fl_bench.storage.folder import clear
from fl_bench.storage.sealed import seal, unseal

Launch = Callable[..., Path]
WORDS = ("num_rounds=2", "num_clients=2", "local.steps=1", "data=synthetic", "data.num_samples=40", "strategy=scaffold")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, of which each test has a copy."""
    folder, scratch = (tmp_path_factory.mktemp(name) for name in ("run", "scratch"))
    assert execute(compose(*WORDS), folder, scratch) == 0
    return folder


@pytest.fixture
def run(shared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shared, tmp_path / "run")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the run that must stay as it is: it looks like what links in the run stand for."""
    folder = tmp_path / "canary"
    for name in ("1/1.safetensors", "0/5.safetensors", "3.safetensors", "round_0001.png", "metrics.csv", "config.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    yield folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert all(path.read_text() == "mine" for path in folder.rglob("*") if path.is_file())


LINKS = (
    "state", "state/0", "state/1/2.safetensors", "checkpoint", "checkpoint/2.safetensors", "figures", "metrics.csv",
    "clients.csv.tmp", "run.json.tmp", "model.safetensors", ".hydra", "checkpoint/9.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("verb", ["resume", "rerun", "replay", "verify", "overwrite"])
@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_not_followed(run: Path, canary: Path, name: str, verb: str) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(canary if "." not in path.name[1:] else canary / "metrics.csv")
    more = {"replay": ["--round", "2", "--client", "0"], "verify": [str(run)]}.get(verb, [])
    with pytest.raises(ConfigError, match=f"{name}: is a link or a device"):
        claim(run, Start.OVERWRITE) if verb == "overwrite" else commands.call(verb, [str(run), *more])


def test_a_pipe_in_place_of_a_file_does_not_hang(run: Path) -> None:
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    with pytest.raises(ConfigError, match=r"run.json: is a link or a device"):
        commands.call("resume", [str(run)])


def test_only_our_files_are_deleted(run: Path) -> None:
    mine = ["state/notes.txt", "state/01/1.safetensors", "state/0/best.safetensors", "checkpoint/vgg.safetensors",
            "figures/mine.png", "notes.csv", ".hydra/mine.yaml", "metrics.csv/a"]  # fmt: skip
    (run / "metrics.csv").unlink()
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    clear(run)
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert left == {*mine, "run.json"}


def edited(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the newest checkpoint says, as somebody who knows how it is sealed."""
    tensors, facts = unseal(run / "checkpoint" / "2.safetensors")
    facts = change(facts) or facts
    for file in (run / "checkpoint").iterdir():
        file.unlink()
    seal(run / "checkpoint" / "2.safetensors", tensors, facts)


CHECKPOINTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a table elsewhere": (
        lambda facts: facts["parts"]["recorder"]["object"].update({"../canary/metrics": {"list": [[], 0, ""]}}),
        "has a table '../canary/metrics', which fl-bench does not write",
    ),
    "no table": (lambda facts: facts["parts"].update(recorder={"object": {"metrics": 3}}), "recorder cannot be put"),
    "no facts": (lambda facts: [1], "is no checkpoint of round 2"),
    "fewer": (lambda facts: {"round": 2}, "is no checkpoint of round 2"),
    "more": (lambda facts: facts | {"more": 1}, "is no checkpoint of round 2"),
    "another round": (lambda facts: facts | {"round": 7}, "is no checkpoint of round 2"),
    "a wrong type": (lambda facts: facts | {"parts": []}, "is no checkpoint of round 2"),
    "no such part": (lambda facts: facts | {"parts": {}}, "recorder cannot be put back: KeyError"),
    "an unknown kind": (lambda facts: facts["parts"].update(states={"nonsense": 1}), "states cannot be put back"),
    "two kinds": (lambda facts: facts["parts"].update(states={"list": [], "tuple": []}), "states cannot be put back"),
    "no such tensor": (lambda facts: facts["parts"].update(states={"array": "no"}), "states cannot be put back"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_an_odd_checkpoint_is_damaged(
    run: Path, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    change, said = CHECKPOINTS[case]
    edited(run, change)
    (tmp_path / "scratch").mkdir()
    assert execute(compose(*WORDS, "num_rounds=3"), run, tmp_path / "scratch", Start.RESUME) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_odd_names_among_the_checkpoints_are_let_be(run: Path) -> None:
    for name in ("²", "٣", "03", "-1", "1e3", "٣٤"):
        (run / "checkpoint" / f"{name}.safetensors").write_text("mine")
    (run / "checkpoint" / "9.safetensors").mkdir()
    (run / "state" / "²").mkdir()
    (run / "state" / "0" / "²").write_text("mine")
    assert commands.call("resume", [str(run), "num_rounds=3", "engine=inline"]) == 0


RECORDS = {
    "a list": ([], "it is no JSON object"),
    "a text": ("no", "it is no JSON object"),
    "deep": ("[" * 100_000, "it is no JSON object"),
    "a config that is none": ({"config": [1]}, "config: Input should be a valid dictionary"),
    "an unknown class of entry": ({"config": {}, "digests": {"a": 1}}, "digests: Input should be a valid list"),
    "words that are none": ({"config": {}, "overrides": [1]}, "overrides.0: Input should be a valid string"),
    "an interpolation": ({"config": {"seed": "${oc.env:HOME}"}}, "its config has an interpolation"),
}


@pytest.mark.parametrize("verb", ["resume", "rerun", "replay", "verify"])
@pytest.mark.parametrize("case", RECORDS)
def test_an_odd_record_is_damaged(run: Path, case: str, verb: str) -> None:
    content, said = RECORDS[case]
    (run / "run.json").write_text(str(content) if case == "deep" else json.dumps(content))
    more = {"replay": ["--round", "2", "--client", "0"], "verify": [str(run)]}.get(verb, [])
    with pytest.raises(Damaged, match=said):
        commands.call(verb, [str(run), *more])


@pytest.mark.parametrize("config", [{"engine": {}}, {"engine": 3}, {"task": None}, {"local": []}])
def test_a_record_that_lacks_keys(run: Path, config: dict[str, Any]) -> None:
    (run / "run.json").write_text(json.dumps({"config": config}))
    for verb in ("resume", "rerun"):
        with pytest.raises(FlBenchError, match=r"\A[^\n]+\Z"):
            commands.call(verb, [str(run)])
    assert commands.call("verify", [str(run), str(run)]) == 1  # "neither run has come to one"


def test_numbers_that_are_not_finite_come_back_and_the_file_is_json(tmp_path: Path) -> None:
    numbers = [float("inf"), float("-inf"), 1.5]
    run_json.save(tmp_path, {"config": {"a": {"b": numbers}}, "final": {"x": float("nan")}})
    read = json.loads((tmp_path / "run.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert read["config"]["a"]["b"] == ["Infinity", "-Infinity", 1.5]
    record = run_json.read(tmp_path)
    assert record["config"]["a"]["b"] == numbers
    assert record["final"]["x"] != record["final"]["x"]
    (tmp_path / "run.json").write_text('{"config": {"a": Infinity}}')  # as older versions wrote it
    assert run_json.read(tmp_path)["config"] == {"a": float("inf")}
