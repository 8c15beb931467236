"""What keeps watch over the other tests is not blind: it sees each kind of leak, and ends it, and lets others be."""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import conftest
import pytest

from fl_bench.storage.temporary import LOCK

pytestmark = pytest.mark.alone  # what is left here on purpose, the tests beside it would see

SLEEP = ["sleep", "1000"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """What is left of this test by now."""
    before = conftest.traces(tmp_path)

    def look() -> list[str]:
        return list(conftest.left_since(before, tmp_path).values())

    monkeypatch.setattr(conftest, "PATIENCE_SECONDS", 0.5)
    return look


def orphan(work: Callable[[], None]) -> int:
    """A process that is not a child of this one, and was not waited for."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.chdir("/")
        if child := os.fork():
            os.write(theirs, str(child).encode())
        else:
            work()
        os._exit(0)
    os.wait()
    number = int(os.read(ours, 100))
    os.close(ours)
    os.close(theirs)
    return number


LEFT: dict[str, Callable[[Path], int]] = {
    "in the folder of the test": lambda folder: subprocess.Popen(SLEEP, cwd=folder, env={}).pid,
    "elsewhere": lambda folder: subprocess.Popen(SLEEP, cwd="/", start_new_session=True).pid,
    "of nobody": lambda folder: orphan(lambda: os.execvp("sleep", SLEEP)),
    "forked and of nobody": lambda folder: orphan(lambda: time.sleep(1000)),
}


@pytest.mark.parametrize("kind", LEFT)
def test_a_process_left_is_seen_and_ended(impatient: Callable[[], list[str]], tmp_path: Path, kind: str) -> None:
    number = LEFT[kind](tmp_path)
    time.sleep(0.3)  # while a process becomes another, nobody can read what it has
    (line,) = impatient()
    assert line.startswith(f"process {number}: ")
    assert impatient() == []


def test_what_another_session_starts_is_not_ours(impatient: Callable[[], list[str]]) -> None:
    with subprocess.Popen(SLEEP, cwd="/", env=os.environ | {"TMPDIR": "/elsewhere"}) as process:
        assert impatient() == []
        process.kill()


@pytest.fixture
def shared() -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(dir="/dev/shm")
    os.close(descriptor)
    yield Path(name)
    os.remove(name)


def test_shared_memory_that_nobody_has_is_seen(impatient: Callable[[], list[str]], shared: Path) -> None:
    with shared.open() as file, subprocess.Popen(SLEEP, stdin=file, cwd="/", env={}) as process:  # another session's
        assert impatient() == []
        process.kill()
    assert impatient() == [str(shared)]


def test_a_temporary_folder_that_nobody_holds_is_seen(impatient: Callable[[], list[str]]) -> None:
    with tempfile.TemporaryDirectory(prefix="fl-bench-") as folder:
        lock = Path(folder, LOCK)
        with lock.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            assert impatient() == []
        assert impatient() == [str(lock)]
