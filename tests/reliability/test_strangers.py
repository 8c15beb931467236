"""A run's folder from somebody else: nothing outside of it is written, deleted or followed, and nothing is a riddle."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose

from fl_bench import commands
from fl_bench.errors import ConfigError, Damaged, FlBenchError
from fl_bench.runs.begin import Start, claim
from fl_bench.runs.execute import execute
from fl_bench.storage import run_json
from fl_bench.storage.files import digest
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


@pytest.mark.parametrize("verb", ["resume", "rerun", "replay", "verify", "export", "evaluate", "audit", "overwrite"])
@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_not_followed(run: Path, canary: Path, name: str, verb: str) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(canary if "." not in path.name[1:] else canary / "metrics.csv")
    with pytest.raises(ConfigError, match=f"{name}: is a link or a device"):
        claim(run, Start.OVERWRITE) if verb == "overwrite" else commands.call(verb, [str(run), *more(verb, run)])


def test_a_pipe_in_place_of_a_file_does_not_hang(run: Path) -> None:
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    with pytest.raises(ConfigError, match=r"run.json: is a link or a device"):
        commands.call("resume", [str(run)])


FILES = ("run.json", "metrics.csv", "model.safetensors", "checkpoint/9.safetensors", "state/0/2.safetensors")


@pytest.mark.parametrize("verb", ["resume", "rerun", "replay", "verify", "export", "evaluate", "audit"])
@pytest.mark.parametrize("name", [*FILES, "checkpoint", "state", "state/0", "figures"])
def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder(run: Path, name: str, verb: str) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.mkdir() if name in FILES else path.write_text("mine")
    with pytest.raises(ConfigError, match=f"{name}: must be a {'file' if name in FILES else 'folder'}"):
        commands.call(verb, [str(run), *more(verb, run)])


def more(verb: str, run: Path) -> list[str]:
    """What a verb wants beside the run."""
    words = {"replay": ["--round", "2", "--client", "0"], "verify": [str(run)], "export": ["--to", "tensorboard"]}
    return words.get(verb, [])


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
    "an interpolation": (
        lambda facts: facts["config"].update(mine="${oc.env:HOME}"),
        "checkpoint/2.safetensors: is damaged: its config has an interpolation",
    ),
    "a deep config": (lambda facts: facts["config"].update(mine=json.loads('{"a":' * 99 + "1" + "}" * 99)), "too deep"),
    "a digest that is none": (
        lambda facts: facts["parts"]["journal"]["object"].update(digests={"list": [1]}),
        "checkpoint/2.safetensors: is damaged: journal cannot be put back",
    ),
    "a final row that is none": (
        lambda facts: facts["parts"]["journal"]["object"].update(final={"list": []}),
        "journal cannot be put back",
    ),
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


MODELS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "another type": torch.Tensor.bfloat16,
    "more precise": torch.Tensor.double,
    "a matrix": lambda model: model[None],
}


@pytest.mark.parametrize("case", MODELS)
def test_a_checkpoint_whose_model_is_no_vector(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    newest = run / "checkpoint" / "2.safetensors"
    tensors, facts = unseal(newest)
    (run / "checkpoint" / "1.safetensors").unlink()
    seal(newest, tensors | {"model": MODELS[case](tensors["model"])}, facts)
    (tmp_path / "scratch").mkdir()
    assert execute(compose(*WORDS, "num_rounds=3"), run, tmp_path / "scratch", Start.RESUME) == 1
    assert f"{newest}: is no checkpoint of round 2" in capsys.readouterr().err


HEADERS = {
    "empty": "{}", "a list": "[]", "a number": "3", "a list of notes": '{"__metadata__": []}',
    "a short note": '{"__metadata__": {"fl-bench": "x"}}', "a note of a number": '{"__metadata__": {"fl-bench": 3}}',
    "deep": '{"a":' + "[" * 5000, "deep facts": '{"__metadata__": {"fl-bench": "a b ' + "[" * 5000 + '"}}',
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_sealed_file_with_an_odd_header_is_damaged(tmp_path: Path, case: str) -> None:
    header, label, blank = HEADERS[case].encode(), b"digest ", b"0" * 32
    start = struct.pack("<Q", len(header)) + header + label
    (tmp_path / "x").write_bytes(start + digest(start, blank).encode())
    with pytest.raises(Damaged, match="x: is damaged"):
        unseal(tmp_path / "x")


def test_odd_names_among_the_checkpoints_are_let_be(run: Path) -> None:
    for name in ("²", "٣", "03", "-1", "1e3", "٣٤"):
        (run / "checkpoint" / f"{name}.safetensors").write_text("mine")
    (run / "state" / "²").mkdir()
    (run / "state" / "0" / "².safetensors").write_text("mine")
    (run / "figures").mkdir()
    for name in ("mine", "²", "7", "00007"):
        (run / "figures" / f"round_{name}.png").write_text("mine")
    assert commands.call("verify", [str(run), str(run)]) == 0
    assert commands.call("resume", [str(run), "num_rounds=3", "engine=inline", "figures=true"]) == 0
    assert all(file.read_text() == "mine" for file in run.glob("figures/round_*"))
    assert len(list(run.glob("figures/round_*"))) == 4


RECORDS = {
    "a list": ([], "it is no JSON object"),
    "a text": ("no", "it is no JSON object"),
    "deep": ("[" * 100_000, "it is no JSON object"),
    "less deep": ('{"config": {}, "final": ' + '{"a":' * 600 + "1" + "}" * 601, "nested too deep"),
    "a deep config": ('{"config": ' + '{"a":' * 100 + "1" + "}" * 101, "nested too deep"),
    "a config that is none": ({"config": [1]}, "config: Input should be a valid dictionary"),
    "an unknown class of entry": ({"config": {}, "digests": {"a": 1}}, "digests: Input should be a valid list"),
    "words that are none": ({"config": {}, "overrides": [1]}, "overrides.0: Input should be a valid string"),
    "an interpolation": ({"config": {"seed": "${oc.env:HOME}"}}, "its config has an interpolation"),
}


@pytest.mark.parametrize("verb", ["resume", "rerun", "replay", "verify"])
@pytest.mark.parametrize("case", RECORDS)
def test_an_odd_record_is_damaged(run: Path, case: str, verb: str) -> None:
    content, said = RECORDS[case]
    (run / "run.json").write_text(content if isinstance(content, str) and case != "a text" else json.dumps(content))
    with pytest.raises(Damaged, match=said):
        commands.call(verb, [str(run), *more(verb, run)])


@pytest.mark.parametrize("verb", ["resume", "verify"])
def test_a_huge_record_is_not_read(run: Path, verb: str) -> None:
    os.truncate(run / "run.json", 2**40)
    with pytest.raises(Damaged, match=r"run.json: is damaged: it has more than \d+ bytes"):
        commands.call(verb, [str(run), *more(verb, run)])


def test_a_huge_model_does_not_fill_the_memory(run: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As far as verify goes: the sizes differ, and so no byte need be read."""
    os.truncate(run / "model.safetensors", 2**40)
    assert commands.call("verify", [str(shared), str(run)]) == 1
    assert "differs: model.safetensors: is missing or damaged: " in capsys.readouterr().out


def test_a_table_that_is_no_text_is_exported_as_far_as_it_goes(run: Path) -> None:
    (run / "metrics.csv").write_bytes((run / "metrics.csv").read_bytes()[:-2] + b"\xff\n")
    assert commands.call("export", [str(run), "--to", "none"]) == 0


CELLS = {"a digit that is none": "²", "many digits": "9" * 5_000, "a huge cell": "9" * 200_000, "no number": "\0"}


@pytest.mark.parametrize("verb", ["resume", "replay", "verify", "export"])
@pytest.mark.parametrize("case", CELLS)
def test_odd_cells_are_said_in_one_line(run: Path, shared: Path, case: str, verb: str) -> None:
    for name in ("metrics.csv", "clients.csv"):
        (run / name).write_text((run / name).read_text().replace("\n2,", f"\n{CELLS[case]},"))
    if verb == "replay":
        shutil.rmtree(run / "checkpoint")  # which knows what the tables were
    with suppress(FlBenchError):  # which is one line
        assert commands.call(verb, [str(run), *more(verb, shared)]) == (0 if verb == "resume" else 1)


def test_a_table_of_clients_without_its_columns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "checkpoint")  # which knows what the table was
    (run / "clients.csv").write_text("a,b\n1,2\n")
    assert commands.call("replay", [str(run), *more("replay", run)]) == 1
    assert "clients.csv has no such row" in capsys.readouterr().out


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
