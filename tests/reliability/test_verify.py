"""fl-bench verify and rerun: what is the same, and where two runs first part."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import forked
from safetensors.numpy import load_file, save_file

from fl_bench import commands
from fl_bench.runs.verify import differences

Launch = Callable[..., Path]
SMALL = (
    "strategy=scaffold",
    "num_rounds=3",
    "num_clients=4",
    "local.steps=1",
    "data=synthetic",
    "data.num_samples=100",
)


def verify(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = commands.call("verify", [str(a), str(b)])
    return code, capsys.readouterr().out.splitlines()


def test_the_same_run_twice(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = launch(*SMALL), launch(*SMALL, "engine.packing=false", "checkpoint.every=2")
    assert verify(a, b, capsys) == (
        0,
        [
            "drifted: checkpoint.every was 1, now 2",
            "drifted: engine.packing was True, now False",
            str(a),
            str(b),
            "the same to the last bit",
        ],
    )


def test_another_seed_parts_at_once(launch: Launch) -> None:
    lines = list(differences(launch(*SMALL), launch(*SMALL, "seed=1")))
    assert lines[:2] == ["config: seed is 0 and 1", "partition: differs"]
    assert lines[2].startswith("model: differs from round 0 on")


def test_a_run_that_goes_further(launch: Launch) -> None:
    lines = list(differences(launch(*SMALL), launch(*SMALL, "num_rounds=4")))
    assert lines[0] == "model: differs from round 4 on (4 and 5 models)"
    assert lines[1] == "metrics.csv: round 4: is only in the second"
    assert lines[2] == "clients.csv: round 4, client 0: is only in the second"


def edit_digest(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    record["digests"][2] = "0" * 32
    (folder / "run.json").write_text(json.dumps(record))


def edit_metrics(folder: Path) -> None:
    lines = (folder / "metrics.csv").read_text().splitlines()
    lines[3] = lines[3].replace(",4,4,0,", ",4,3,1,")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def drop_a_client(folder: Path) -> None:
    lines = (folder / "clients.csv").read_text().splitlines()
    (folder / "clients.csv").write_text("\n".join(lines[:-1]) + "\n")


def nudge(file: Path, name: str) -> None:
    tensors = load_file(file)
    tensors[name].flat[0] = np.nextafter(tensors[name].flat[0], np.float32(9))
    save_file(tensors, file)


def rename(file: Path) -> None:
    save_file(load_file(file), file, metadata={"format": "another"})


def drop_the_first_client(folder: Path) -> None:
    lines = (folder / "clients.csv").read_text().splitlines()
    (folder / "clients.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")


def edit_data(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    record["data"]["data"] = "0"
    (folder / "run.json").write_text(json.dumps(record))


EDITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "digest": (edit_digest, "model: differs from round 2 on"),
    "metrics": (edit_metrics, "metrics.csv: round 2: clients_ok is 4 and 3; clients_failed is 0 and 1"),
    "clients": (drop_a_client, "clients.csv: round 3, client 3: is only in the first"),
    "a client": (drop_the_first_client, "clients.csv: round 1, client 0: is only in the first"),
    "header": (lambda folder: rename(folder / "model.safetensors"), "model.safetensors: has the same tensors, written"),
    "partition": (lambda folder: (folder / "partition.csv").unlink(), "partition.csv: is missing in "),
    "model": (lambda folder: nudge(folder / "model.safetensors", "1.bias"), "model.safetensors: 1.bias differs by up"),
    "state": (lambda folder: nudge(folder / "state/2/3.safetensors", "variate"), "state/2: variate differs by up to "),
    "data": (edit_data, "data: differs"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_differs_is_named(launch: Launch, edit: str) -> None:
    a, b = launch(*SMALL), launch(*SMALL)
    change, line = EDITS[edit]
    change(b)
    (found,) = differences(a, b)
    assert found.startswith(line)


def test_runs_that_came_to_nothing_are_not_called_the_same(launch: Launch) -> None:
    runs = [launch(*SMALL, "num_clients=1000", exit_code=2) for _ in range(2)]
    assert list(differences(*runs)) == ["model: neither run has come to one"]
    assert "status: is done and invalid" in list(differences(launch(*SMALL), runs[0]))


def test_the_surroundings_that_have_drifted_are_listed(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = launch(*SMALL), launch(*SMALL)
    record = json.loads((b / "run.json").read_text())
    record["versions"]["torch"] = "1.0"
    record["git_commit"] = "f00"
    (b / "run.json").write_text(json.dumps(record))
    code, lines = verify(a, b, capsys)
    assert code == 0
    assert any(line.startswith("drifted: versions.torch was 2.") and line.endswith(", now 1.0") for line in lines)
    assert any(line.startswith("drifted: git_commit was ") and line.endswith(", now f00") for line in lines)


def test_a_folder_without_a_run(tmp_path: Path, launch: Launch) -> None:
    result = forked("verify", str(launch(*SMALL)), str(tmp_path), cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"fl-bench: {tmp_path}: is not the folder of a run: it has no run.json with a config\n"
    result = forked("verify", str(tmp_path / "other.py"), str(tmp_path), cwd=tmp_path)
    assert result.returncode == 2
    (tmp_path / "run.json").write_text('{"config": ')
    result = forked("verify", str(tmp_path), str(tmp_path), cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"fl-bench: {tmp_path / 'run.json'}: is damaged: it is no JSON object, or nested too deep\n"


def test_a_run_is_repeated_from_its_record(tmp_path: Path) -> None:
    words = ("engine=inline", "figures=false", *SMALL, "hydra.run.dir=run")
    assert forked(*words, cwd=tmp_path).returncode == 0
    result = forked("rerun", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "the same to the last bit"
    metrics = tmp_path / "run" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("0.", "1.", 1))
    result = forked("rerun", "run", "engine.packing=false", cwd=tmp_path)
    assert result.returncode == 1
    assert "drifted: engine.packing was True, now False" in result.stdout
    assert "differs: metrics.csv: round 0: " in result.stdout
    assert (tmp_path / "run_again2").is_dir()
    result = forked("rerun", "run", "local.lr=0.5", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("fl-bench: local.lr=0.5: the run has 0.1, and its rounds would be others")
    assert not (tmp_path / "run_again3").exists()
