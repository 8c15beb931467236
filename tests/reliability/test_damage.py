"""Bytes that change on disk: a run that goes on is right, or says which file is wrong; never wrong in silence."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import compose, digests

from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute

DAMAGES = int(os.environ.get("FL_BENCH_DAMAGES", "60"))  # docs/reliability.md says with how many it was last tried
WORDS = (
    "strategy=scaffold", "network=flaky", "num_clients=4", "local.steps=1", "data=synthetic", "data.num_samples=60",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A run stopped after round 3, and the digests of the one that went on to round 5."""

    def start(num_rounds: int) -> Path:
        folder, scratch = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("scratch")
        assert execute(compose(*WORDS, f"num_rounds={num_rounds}"), folder, scratch) == 0
        return folder

    return start(3), digests(start(5))


def flip(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def drop(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    del content[at : at + chance.randint(1, 8)]


def insert(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    content[at:at] = chance.randbytes(chance.randint(1, 8))


def zero(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    content[at : at + 512] = bytes(len(content[at : at + 512]))


KINDS: list[Callable[[bytearray, random.Random], None]] = [flip, cut, drop, insert, zero]


@pytest.mark.parametrize("number", range(DAMAGES))
def test_damage(
    runs: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    source, expected = runs
    chance = random.Random(number)
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    shutil.copytree(source, folder)
    scratch.mkdir()
    pattern = chance.choice(["checkpoint/*", "state/*/*", "*.csv"])
    file = chance.choice(sorted(folder.glob(pattern)))
    content = bytearray(file.read_bytes())
    KINDS[number % len(KINDS)](content, chance)
    file.write_bytes(content)
    code = execute(compose(*WORDS, "num_rounds=5"), folder, scratch, begin=Start.RESUME)
    errors = capsys.readouterr().err
    if code == 0:
        assert digests(folder) == expected
    else:
        assert code == 1
        (line,) = [line for line in errors.splitlines() if not line.startswith("fl-bench: note: ")]
        assert line.startswith(f"fl-bench: {file}: is ")
    assert "Traceback" not in errors
