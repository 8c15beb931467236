"""Clients, numbers and disks that fail."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import digests, environment, fl_bench, forked, long, often, table

from fl_bench import cli, commands
from fl_bench.federation.update import Diverged, ExactMean, Update
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn

Launch = Callable[..., Path]
SMALL = ("num_rounds=3", "num_clients=4", "local.steps=1", "data=synthetic", "data.num_samples=100")


def failing(what: Callable[[Turn], None], client: int = 2, round: int = 2) -> Callable[[LocalAlgorithm, Turn], None]:
    """A `finish` in which one client does this in one round."""

    def finish(self: LocalAlgorithm, turn: Turn) -> None:
        if (turn.client, turn.round) == (client, round):
            what(turn)

    return finish


def raising(turn: Turn) -> None:
    raise ValueError("no\nluck")


FAULTS = {
    "raises": (raising, "ValueError: no luck (test_faults.py:"),
    "NaN": (lambda turn: turn.parameters.fill_(torch.nan), "its largest change of a weight is nan"),
    "infinity": (lambda turn: turn.parameters[-1:].fill_(torch.inf), "its largest change of a weight is inf"),
    "time": (lambda turn: time.sleep(100), "it took more than engine.client_timeout_s=3"),
    "reply": (lambda turn: turn.reply.update(alpha=float("nan")), "its alpha is nan"),
}


@pytest.mark.parametrize("fault", often(FAULTS, "raises", "NaN", "reply"))
@pytest.mark.parametrize("strategy", ["scaffold", "fedmedian"])  # summed at the workers, and one by one
def test_a_client_that_fails_is_recorded_and_left_out(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], strategy: str, fault: str
) -> None:
    what, why = FAULTS[fault]
    words = (
        *SMALL,
        f"strategy={strategy}",
        "num_rounds=2",
        f"engine.client_timeout_s={3 if fault == 'time' else 'null'}",
    )
    whole, before = launch(*words), launch(*words, "num_rounds=1")
    capsys.readouterr()
    monkeypatch.setattr(LocalAlgorithm if strategy == "fedmedian" else scaffold(), "finish", wrapped(strategy, what))
    folder = launch(*words)
    rows = {(row["round"], row["client"]): row for row in table(folder, "clients")}
    row = rows["2", "2"]
    assert row["status"] == "failed"
    assert row["why"].startswith(why)
    assert (row["num_examples"], row["train_loss"], row["bytes_up"]) == ("", "", "0")
    others = {key: row | {"why": ""} for key, row in rows.items() if key != ("2", "2")}
    expected = {(row["round"], row["client"]): row | {"why": ""} for row in table(whole, "clients")}
    del expected["2", "2"]
    assert others == expected
    last = table(folder, "metrics")[-1]
    assert (last["clients_ok"], last["clients_failed"]) == ("3", "1")
    states = [[file.read_bytes() for file in run.glob("state/2/*")] for run in (folder, before)]
    assert states[0] == states[1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fl-bench: note: round 2: 1 of 4 clients failed; client 2: {why}")
    assert line.endswith(f"to see it: fl-bench replay {folder} --round 2 --client 2")


def scaffold() -> type[LocalAlgorithm]:
    from fl_bench.strategies.scaffold import ControlVariates

    return ControlVariates


def wrapped(strategy: str, what: Callable[[Turn], None]) -> Callable[[LocalAlgorithm, Turn], None]:
    original = scaffold().finish if strategy == "scaffold" else LocalAlgorithm.finish
    fail = failing(what)

    def finish(self: LocalAlgorithm, turn: Turn) -> None:
        original(self, turn)
        fail(self, turn)

    return finish


def test_a_number_that_is_no_number_leaves_no_trace_in_the_sum() -> None:
    """The bad one is in the last block of three, so two were added before it was seen."""
    size, chance = 3 * 2**16, np.random.default_rng(0)
    start = np.zeros(size, np.float32)
    good = [Update(chance.standard_normal(size, np.float32), weight) for weight in (3, 5)]
    bad = good[0].values.copy()
    bad[-1] = np.nan
    exact = ExactMean(start, weight_bound=100)
    total = exact.add(exact.add(None, good[0]), good[1])
    before = total.values.copy()
    with pytest.raises(Diverged, match="nan"):
        exact.add(total, Update(bad, 7))
    assert np.array_equal(total.values, before)
    assert total.weight == 8


def test_a_client_is_tried_twice_where_the_user_wants_it(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = launch(*SMALL)
    attempts: list[int] = []

    def once(turn: Turn) -> None:
        attempts.append(turn.client)
        if len(attempts) == 1:
            raise OSError("a hiccup")

    monkeypatch.setattr(LocalAlgorithm, "finish", failing(once))
    assert digests(launch(*SMALL, "on_client_failure=retry")) == digests(whole)
    assert attempts == [2, 2]
    monkeypatch.setattr(LocalAlgorithm, "finish", failing(raising))
    folder = launch(*SMALL, "on_client_failure=retry")
    assert [row["client"] for row in table(folder, "clients") if row["status"] == "failed"] == ["2"]


def test_a_run_ends_with_the_first_failure_where_the_user_wants_it_and_can_go_on(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LocalAlgorithm, "finish", failing(raising))
    folder = launch(*SMALL, "on_client_failure=abort", exit_code=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fl-bench: round 2: 1 of 4 clients failed; client 2: ValueError: no luck")
    assert line.endswith(f"fl-bench replay {folder} --round 2 --client 2")
    assert [row["status"] for row in table(folder, "clients") if row["round"] == "2"] == ["ok", "ok", "failed", "ok"]
    assert commands.call("replay", [str(folder), "--round", "2", "--client", "2"]) == 0
    shown = capsys.readouterr().out
    assert "status               failed" in shown
    assert "why                  ValueError: no luck" in shown
    monkeypatch.undo()
    assert commands.call("resume", [str(folder)]) == 0
    assert digests(folder) == digests(launch(*SMALL))


def test_a_client_that_fails_to_be_evaluated(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def personalize(self: LocalAlgorithm, turn: Turn) -> None:
        if (turn.client, turn.round) == (1, 2):
            raise KeyError("luck")

    monkeypatch.setattr(LocalAlgorithm, "personalize", personalize)
    folder = launch(*SMALL, "evaluate.clients=true")
    rows = {(row["round"], row["client"]): row for row in table(folder, "clients")}
    assert (rows["2", "1"]["status"], rows["2", "1"]["client_loss"]) == ("ok", "")
    assert rows["2", "1"]["why"].startswith("evaluation: KeyError: 'luck'")
    assert rows["3", "1"]["client_loss"]
    others = [float(rows["2", str(client)]["client_accuracy"]) for client in (0, 2, 3)]
    mean = float(table(folder, "metrics")[2]["client_accuracy"])
    assert min(others) <= mean <= max(others)
    words = ["--round", "2", "--client", "1", "--evaluation"]
    assert f"fl-bench replay {folder} {' '.join(words)}" in capsys.readouterr().err
    assert commands.call("replay", [str(folder), *words]) == 0
    assert "why                  evaluation: KeyError: 'luck'" in capsys.readouterr().out
    monkeypatch.undo()
    assert commands.call("replay", [str(folder), *words]) == 1
    assert capsys.readouterr().out.endswith("not what is in clients.csv\n")


def test_a_client_whose_held_out_loss_is_no_number_is_left_out_too(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def personalize(self: LocalAlgorithm, turn: Turn) -> None:
        if (turn.client, turn.round) == (1, 2):
            turn.parameters.fill_(torch.nan)

    monkeypatch.setattr(LocalAlgorithm, "personalize", personalize)
    rows = table(launch(*SMALL, "evaluate.clients=true"), "clients")
    assert [row["why"] for row in rows if row["why"]] == ["evaluation: its held-out loss is nan"]


def test_a_client_that_fails_twice_in_a_round_has_both_reasons(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LocalAlgorithm, "finish", failing(raising))

    def personalize(self: LocalAlgorithm, turn: Turn) -> None:
        if (turn.client, turn.round) == (2, 2):
            raise KeyError("luck")

    monkeypatch.setattr(LocalAlgorithm, "personalize", personalize)
    folder = launch(*SMALL, "evaluate.clients=true")
    (why,) = (row["why"] for row in table(folder, "clients") if row["why"])
    assert why.startswith("ValueError: no luck (")
    assert "; evaluation: KeyError: 'luck' (" in why
    for flag in ([], ["--evaluation"]):
        assert commands.call("replay", [str(folder), "--round", "2", "--client", "2", *flag]) == 0


def test_a_round_in_which_nobody_can_be_evaluated_can_be_replayed(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def personalize(self: LocalAlgorithm, turn: Turn) -> None:
        if turn.round == 2:
            raise KeyError("luck")

    monkeypatch.setattr(LocalAlgorithm, "personalize", personalize)
    folder = launch(*SMALL, "evaluate.clients=true", exit_code=1)
    line = capsys.readouterr().err
    assert "round 2: 4 of 4 clients failed in their evaluation; client 0: KeyError: 'luck'" in line
    assert commands.call("replay", [str(folder), "--round", "2", "--client", "0", "--evaluation"]) == 0


def test_a_replay_without_the_checkpoint_repeats_what_came_before(
    launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launch("num_rounds=5", "strategy=fedbuff", "network=heterogeneous", "clients_per_round=4")
    row = next(row for row in table(folder, "clients") if row["round"] == "2" and row["status"] == "ok")
    shutil.rmtree(folder / "checkpoint")
    assert commands.call("replay", [str(folder), "--round", "2", "--client", row["client"]]) == 0
    assert "there is no checkpoint of round 1: repeating from round 0 on" in capsys.readouterr().err


def test_what_a_timeout_leaves_half_done_is_made_good(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn ends where autograd is off and the model has a hook; the next client's must be as ever."""
    whole = launch(*SMALL)

    def late(turn: Turn) -> None:
        torch.set_grad_enabled(False)
        turn.model.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
        time.sleep(100)

    monkeypatch.setattr(LocalAlgorithm, "finish", failing(late))
    folder = launch(*SMALL, "engine.client_timeout_s=3")
    rows, expected = (
        {(r["round"], r["client"]): r["train_loss"] for r in table(run, "clients")} for run in (folder, whole)
    )
    assert rows.pop(("2", "2")) == ""
    assert all(rows[key] == expected[key] for key in rows if key[0] in "12")


def test_a_clients_own_missing_file_is_its_own_failure(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(turn: Turn) -> None:
        raise PermissionError(13, "Permission denied", "/data/hospital.npy")

    monkeypatch.setattr(LocalAlgorithm, "finish", failing(deny))
    rows = table(launch(*SMALL), "clients")
    assert [(row["round"], row["client"]) for row in rows if row["status"] == "failed"] == [("2", "2")]


def test_a_replay_shows_numbers_that_are_not_those_written(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = launch(*SMALL)
    words = [str(folder), "--round", "3", "--client", "1"]
    assert commands.call("replay", words) == 0
    row = next(row for row in table(folder, "clients") if (row["round"], row["client"]) == ("3", "1"))
    clients = folder / "clients.csv"
    clients.write_text(clients.read_text().replace(row["train_loss"], "0.5"))
    assert commands.call("replay", words) == 1
    shown = capsys.readouterr().out
    assert f"train_loss           {row['train_loss']}   clients.csv: 0.5" in shown
    assert shown.endswith("not what is in clients.csv\n")


@long
def test_a_replay_can_be_debugged(launch: Launch) -> None:
    folder = launch(*SMALL)
    words = ("replay", str(folder), "--round", "3", "--client", "1", "--debug")
    result = fl_bench(*words, cwd=folder, typed="p 'here', client, round\nc\n")
    assert "('here', 1, 3)" in result.stdout
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--round", "3", "--client", "9"), "--client 9: does not train in round 3; those who do: [0, 1, 2, 3]"),
        (("--round", "9", "--client", "1"), "--round 9: the run has 3 rounds"),
    ],
)
def test_a_replay_of_what_never_was(
    launch: Launch,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    line: str,
) -> None:
    folder = launch(*SMALL)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["fl-bench", "replay", str(folder), *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"fl-bench: {line}\n"


def test_training_that_diverges_says_so(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*SMALL, "local.lr=1000", "num_rounds=20", "local.steps=4")
    folder = launch(*words, exit_code=1)
    line = capsys.readouterr().err.splitlines()[-1]
    assert "training diverges: t" in line
    assert "a smaller local.lr may help (stop_on_divergence=false would go on)" in line
    rows = table(folder, "metrics")
    assert 1 < len(rows) < 21
    assert len(table(launch(*words, "stop_on_divergence=false"), "metrics")) == 21


def test_early_stop(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    """Accuracy on ten test images rises in steps; the run ends three evaluations after its last best."""
    words = (*SMALL, "num_rounds=60", "early_stop.metric=test_accuracy", "early_stop.patience=3", "evaluate.every=2")
    folder = launch(*words)
    measured = [float(row["test_accuracy"]) for row in table(folder, "metrics") if row["test_accuracy"]]
    best = max(measured)
    assert len(measured) - 1 - measured.index(best) == 3
    assert len(measured) < 31
    assert '"stopped_early": true' in (folder / "run.json").read_text()
    assert commands.call("resume", [str(folder)]) == 0
    assert "stopped early after round " in capsys.readouterr().out.splitlines()[-1]
    longer = launch(*words, "early_stop.patience=5")
    assert commands.call("resume", [str(folder), "early_stop.patience=5"]) == 0
    assert digests(folder) == digests(longer)


@pytest.mark.parametrize(
    ("rounds", "said"), [(2.5, "round 2: another such would pass"), (0.5, "round 1: 0.1256 MB are above")]
)
def test_a_run_ends_before_it_sends_too_much_with_an_evaluation(
    launch: Launch, capsys: pytest.CaptureFixture[str], rounds: float, said: str
) -> None:
    limit = rounds * 2 * 2 * 4 * 7850 / 1e6  # two clients, both ways, floats of a logistic regression on 28 x 28
    words = ("num_clients=2", "local.steps=1", "num_rounds=6", "evaluate.every=4")
    rows = table(launch(*words, f"early_stop.max_megabytes={limit}"), "metrics")
    assert [bool(row["test_loss"]) for row in rows] == [True, *[False] * (len(rows) - 2), True]
    assert f"{said} early_stop.max_megabytes={limit}" in capsys.readouterr().err


def test_a_metric_that_is_not_measured_cannot_stop_a_run(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch(*SMALL, "early_stop.metric=test_acuracy", exit_code=2)
    assert (
        "early_stop.metric=test_acuracy: must be one of this run's test_loss, test_accuracy" in capsys.readouterr().err
    )


def test_a_clock_that_jumps_changes_nothing(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*SMALL, "engine.client_timeout_s=60", "targets=[0.1]")
    whole = launch(*words)
    jumps = iter(np.random.default_rng(0).uniform(-1e9, 1e9, 100_000).tolist())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    folder = launch(*words)
    assert digests(folder) == digests(whole)
    assert all(float(row["train_seconds"]) >= 0 for row in table(folder, "timing"))


def in_namespace(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script that may mount file systems, where the system lets us."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["unshare", "-rm", "bash", "-c", script]
    return subprocess.run(command, cwd=cwd, env=environment(cwd) | path, capture_output=True, text=True, timeout=120)


DISKS = [
    ("inline", "fedavg", "140k"),
    ("inline", "scaffold", "900k"),
    ("simulation", "scaffold", "1300k"),
]


@pytest.mark.parametrize(("engine", "strategy", "size"), DISKS)
@long
def test_a_full_disk(tmp_path: Path, launch: Launch, engine: str, strategy: str, size: str) -> None:
    words = (f"strategy={strategy}", "num_rounds=40", "data=synthetic", "data.num_samples=100")
    script = f"""
        mkdir small && mount -t tmpfs -o size={size} none small
        fl-bench engine={engine} figures=false {" ".join(words)} hydra.run.dir=small/run
        code=$?
        cp -r small/run kept
        exit $code
    """
    result = in_namespace(script, tmp_path)
    assert result.returncode == 1, result.stdout
    errors = [line for line in result.stderr.splitlines() if not line.startswith("fl-bench: note: ")][1:]  # what it is
    (line,) = errors
    assert "No space left on device" in line
    assert "saved up to round " in line
    assert line.endswith("; to go on: fl-bench resume " + str(tmp_path / "small" / "run"))
    assert "failed" not in (tmp_path / "kept" / "clients.csv").read_text()
    result = forked("resume", "kept", "engine=inline", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "kept") == digests(launch(*words, "local.lr_horizon=40"))  # it follows num_rounds


@long
def test_a_folder_that_becomes_read_only(tmp_path: Path, launch: Launch) -> None:
    words = "num_rounds=80 data=synthetic data.num_samples=100"
    script = f"""
        mkdir disk && mount -t tmpfs none disk
        fl-bench engine=inline figures=false {words} hydra.run.dir=disk/run &
        until [ "$(wc -l < disk/run/metrics.csv)" -gt 4 ]; do sleep 0.05; done 2> /dev/null
        until mount -o remount,ro disk 2> /dev/null; do :; done
        wait $!
        code=$?
        cp -r disk/run kept
        exit $code
    """
    result = in_namespace(script, tmp_path)
    assert result.returncode == 1, result.stdout
    line = result.stderr.splitlines()[-1]
    assert "Read-only file system" in line
    assert line.endswith("; to go on: fl-bench resume " + str(tmp_path / "disk" / "run"))
    assert forked("resume", "kept", "engine=inline", cwd=tmp_path).returncode == 0
    assert digests(tmp_path / "kept") == digests(launch(*words.split()))
