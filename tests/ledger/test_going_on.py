"""A run with a ledger that goes on: its chain goes on where it was, or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import compose, digests

from fl_bench.cli import dispatch
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute

Run = Callable[..., tuple[Path, int]]
SMALL = ("task=mnist", "num_clients=4", "local.steps=1", "data=synthetic", "data.num_samples=100", "strategy=fedadam")


@pytest.fixture
def start(tmp_path: Path) -> Run:
    """Run in tmp_path/NAME, or go on there: the folder and the exit code."""
    scratch = iter(tmp_path / f"scratch{number}" for number in range(10))

    def call(name: str, *words: str, resume: bool = False) -> tuple[Path, int]:
        folder, aside = tmp_path / name, next(scratch)
        folder.mkdir(exist_ok=True)
        aside.mkdir()
        return folder, execute(compose(*SMALL, *words), folder, aside, Start.RESUME if resume else Start.NEW)

    return call


def test_the_chain_goes_on(start: Run) -> None:
    """Over a block for which there was no checkpoint yet when the run was stopped."""
    words = ("ledger=signed", "checkpoint.every=2", "num_rounds=5")
    whole, _ = start("whole", *words)
    parts, _ = start("parts", *words)
    (parts / "checkpoint" / "5.safetensors").unlink()
    (parts / "ledger" / "5.json").write_text("{}")
    _, code = start("parts", *words, resume=True)
    assert code == 0
    assert digests(parts) == digests(whole)
    assert dispatch(["verify", str(parts)]) == 0


@pytest.mark.parametrize(("before", "now"), [("signed", "none"), ("none", "signed")])
def test_a_run_has_a_ledger_of_all_rounds_or_of_none(
    start: Run, capsys: pytest.CaptureFixture[str], before: str, now: str
) -> None:
    folder, _ = start("run", f"ledger={before}", "num_rounds=1")
    whole = digests(folder)
    _, code = start("run", f"ledger={now}", "num_rounds=2", resume=True)
    assert code == 2
    was, wish = before == "signed", now == "signed"
    said = f"fl-bench: ledger.signed={wish}: the run has {was}, and its ledger has all rounds or none"
    assert said in capsys.readouterr().err
    assert digests(folder) == whole


@pytest.mark.parametrize(
    ("round", "content", "said"),
    [
        (2, None, "2.json is missing"),
        (2, b"{}", "2.json is not written as a block is"),
        (1, None, "2.json is not what this run has written"),
        (0, None, "0.json is missing"),
    ],
)
def test_no_run_goes_on_behind_a_damaged_block(
    start: Run, capsys: pytest.CaptureFixture[str], round: int, content: bytes | None, said: str
) -> None:
    folder, _ = start("run", "ledger=signed", "num_rounds=2")
    block = folder / "ledger" / f"{round}.json"
    if round == 1:
        block.replace(folder / "ledger" / "2.json")
    elif content is None:
        block.unlink()
    else:
        block.write_bytes(content)
    there = digests(folder)
    _, code = start("run", "ledger=signed", "num_rounds=3", resume=True)
    assert code == 1
    assert said in capsys.readouterr().err
    assert digests(folder) == there
