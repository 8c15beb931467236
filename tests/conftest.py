"""How tests run experiments: composed as shipped, made small, in this process or through the real command."""

import csv
import fcntl
import gc
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext, redirect_stderr, suppress
from copy import deepcopy
from functools import cache, lru_cache
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import forks
import hydra
import numpy as np
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hypothesis import settings
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fl_bench.config.compose import SEARCH
from fl_bench.config.rules import validate
from fl_bench.config.schema import CONF
from fl_bench.data import sources
from fl_bench.network.clock import Network
from fl_bench.runs.execute import execute
from fl_bench.storage.temporary import LOCK

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))
COMMAND = str(Path(sys.executable).with_name("fl-bench"))
MARK = "session"  # a file in TMPDIR that this process has open, and whatever is forked from it
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fl_bench.runs.execute"])
MANY_FILES = 300  # that are open; where there are 1,024, select() fails
PATIENCE_SECONDS = 10  # for the system to end what was killed
Launch = Callable[..., Path]  # words to the folder of a run
TREES = {"fedxgb_bagging", "fedxgb_cyclic"}  # strategies that train no network: tests/strategies/test_fedxgb.py
COLUMNS = {"ftl"}  # that are for clients which hold columns: tests/vertical
SPLIT = {"splitfed"}  # those that need a model of several layers: tests/strategies/test_splitfed.py
ADAPTERS = {"flora", "flexlora", "hetlora"}  # strategies that train adapters: tests/strategies/test_adapter_runs.py
STRATEGIES = sorted({file.stem for file in (CONF / "strategy").glob("*.yaml")} - TREES - COLUMNS - SPLIT - ADAPTERS)
FEW = (  # of them, in `make test`, where all are tried in the same way
    "fedavg", "scaffold", "fedadam", "ditto", "fedbuff", "fedper", "dp_client_adaptive", "oort", "krum", "qfedavg",
)  # fmt: skip
DETERMINISTIC = ("metrics.csv", "clients.csv", "partition.csv", "model.safetensors")

with redirect_stderr(sys.__stderr__):  # absl closes the stream that it was imported with, which else were pytest's
    import absl.logging  # noqa: F401

torch.set_num_threads(1)
settings.register_profile("fl-bench", max_examples=int(os.environ.get("FL_BENCH_EXAMPLES", "100")), deadline=None)
settings.load_profile("fl-bench")
for name in ("digits", "digits_on_photos"):  # the same for every run, and most of a small run's time
    setattr(sources, name, cache(getattr(sources, name)))
os.fsync = lambda fd: None  # no test pulls the plug; commands that are started do wait for the disk


# For a test whose like runs in `make test` already, and that takes long: `make test-all` has it.
long = pytest.mark.skipif("FL_BENCH_LONG" not in os.environ, reason="make test-all")


def often(names: Iterable[str], *few: str) -> list[Any]:
    """These names as parameters, of which `make test` has a few."""
    return [pytest.param(name, marks=[] if name in few else long) for name in names]


_compose = hydra.compose  # a third of a small run's time


@lru_cache(64)
def _composed(name: str, overrides: tuple[str, ...], hydras: bool) -> DictConfig:
    return _compose(name, list(overrides), return_hydra_config=hydras)


def _composed_once(name: str, overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    """What Hydra makes of these words: of those that choose files once, then of those that set values, as Hydra does;
    of those that name a folder anew, as a test may change what is in it.
    """
    if any(word.startswith(SEARCH) for word in overrides):
        return _compose(name, list(overrides), return_hydra_config=return_hydra_config)
    if return_hydra_config:  # it says which words there were
        return deepcopy(_composed(name, tuple(overrides), True))
    words = OverridesParser.create().parse_overrides(list(overrides))
    choices = [word for word in words if word.is_hydra_override() or (CONF / word.key_or_group).is_dir()]
    cfg = deepcopy(_composed(name, tuple(word.input_line for word in choices), False))
    try:
        ConfigLoaderImpl._apply_overrides_to_config([word for word in words if word not in choices], cfg)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException from error
    return cfg


hydra.compose = _composed_once  # type: ignore[assignment]


def compose(*overrides: str) -> DictConfig:
    """The config as the command line would make it, on the engine of this process and without figures."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", ["engine=inline", "figures=false", HORIZON, *overrides])
    validate(cfg)
    return cfg


def own_task(name: str) -> tuple[str, ...]:
    """The words for a task of a test's own, which takes nothing of what ours take."""
    others = ("~task.model", "~task.label_smoothing", "task.class_weights=1", "~task.class_weights")  # no null goes
    return f"task._target_={name}", *others


HORIZON = "local.lr_horizon=100"  # so that tests may go on with more rounds; the command keeps that of the run


def digests(folder: Path) -> dict[str, str]:
    files = [*(folder / name for name in DETERMINISTIC), *folder.glob("state/*/*"), *folder.glob("ledger/*")]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def table(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a run's CSV file."""
    return list(csv.DictReader((folder / f"{name}.csv").open()))


TRACE_COLUMNS = "client,seconds_per_step,bytes_per_second_up,bytes_per_second_down,available_from,available_to\n"


def make_network(tmp_path: Path, rows: str, steps: Any, num_bytes: tuple[Any, Any], **given: Any) -> Network:
    """Clients on the devices of these rows of traces; `num_bytes` go down and up."""
    file = tmp_path / "traces.csv"
    file.write_text(TRACE_COLUMNS + rows)
    options = {"dropout": 0.0, "deadline_s": None, "over_select": 1.0, "spread": 0.0, "traces": str(file), "seed": 0}
    speeds = {"seconds_per_step": 1.0, "bytes_per_second_up": 1.0, "bytes_per_second_down": 1.0}
    down, up = num_bytes
    return Network(**(options | speeds | given), steps=np.array(steps), bytes_down=down, bytes_up=up)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Run an experiment in this process and return its folder."""
    count = iter(range(1000))

    def start(*overrides: str, exit_code: int = 0) -> Path:
        folder, scratch = (tmp_path / f"{kind}{next(count)}" for kind in ("run", "scratch"))
        folder.mkdir()
        scratch.mkdir()
        assert execute(compose(*overrides), folder, scratch) == exit_code
        return folder

    return start


@pytest.fixture
def refused(launch: Launch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a run with these words says before it ends with 2."""

    def start(*overrides: str) -> str:
        launch(*overrides, exit_code=2)
        return capsys.readouterr().err

    return start


@pytest.fixture
def quick_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GAN's judge that has learnt little, for runs in this process where nobody asks how good the images are."""
    monkeypatch.setattr("fl_bench.tasks.dcgan.JUDGE_STEPS", 20)


def fl_bench(*words: str, cwd: Path, timeout: float = 120, typed: str = "") -> subprocess.CompletedProcess[str]:
    """The console command, for real, in a folder whose modules can be imported."""
    process = begin(*words, cwd=cwd)
    stdout, stderr = process.communicate(typed, timeout)  # what takes too long `nothing_is_left` kills
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def begin(*words: str, cwd: Path, output: Path | None = None) -> subprocess.Popen[str]:
    """The console command, at its start. It writes to a file, which nobody need read, or into pipes."""
    with output.open("w") if output else nullcontext() as file:
        return subprocess.Popen(
            [COMMAND, *words], cwd=cwd, env=environment(cwd), text=True, start_new_session=True, stdin=subprocess.PIPE,
            stdout=file or subprocess.PIPE, stderr=file or subprocess.PIPE,
        )  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """Modules are found in `folder`, and the package in this checkout, wherever another is installed."""
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def forked(*words: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """What `fl_bench` does, in a process forked from one that has imported everything: imports are most of its time."""
    with tempfile.TemporaryDirectory(prefix="output-") as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        child = FORKS.Process(target=forks.command, args=(words, cwd, environment(cwd), outputs))
        child.start()
        child.join(timeout)
        if child.exitcode is None:
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, child.exitcode, *(file.read_text() for file in outputs))


def is_free(lock: Path) -> bool:
    """Whether the run that made it is over."""
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has it, or it is just going
        return False
    return True


def processes() -> Iterator[Path]:
    """The folders in /proc of what runs, this process and what has ended but for its exit code apart."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if folder.name != str(os.getpid()) and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield folder


def leftovers(folder: Path) -> list[str]:
    """Processes that still run in `folder`."""
    return [command_line(process) for process in processes() if works_in(process, folder)]


def command_line(process: Path) -> str:
    with suppress(OSError):
        return (process / "cmdline").read_text().replace("\0", " ")
    return ""


def works_in(process: Path, folder: Path) -> bool:
    with suppress(OSError):
        return os.readlink(process / "cwd").startswith(str(folder))
    return False


def is_ours(process: Path) -> bool:
    """Whether it was started by the tests of this session: it has its TMPDIR, or, if forked, the mark in there open."""
    with suppress(OSError):
        if f"TMPDIR={tempfile.gettempdir()}".encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        mark = f"{tempfile.gettempdir()}/{MARK}"
        return any(os.readlink(file) == mark for file in (process / "fd").iterdir())
    return False


def in_use(shared: Path) -> bool:
    """Whether a process that lives has this file of shared memory; a file of a session beside this one is."""
    for process in processes():
        with suppress(OSError):
            if str(shared) in (process / "maps").read_text():
                return True
            if any(os.readlink(file) == str(shared) for file in (process / "fd").iterdir()):
                return True
    return False


def traces(folder: Path) -> dict[str, str]:
    """What of ours could be left behind, and what to call it: processes in `folder` or started by this session, shared
    memory that nobody has, temporary folders that nobody holds.
    """
    running = [process for process in processes() if works_in(process, folder) or is_ours(process)]
    shared = [file for file in Path("/dev/shm").glob("*") if nobody_has(file)]
    locks = [lock for lock in Path(tempfile.gettempdir()).glob(f"fl-bench-*/{LOCK}") if is_free(lock)]
    return {str(file): str(file) for file in (*shared, *locks)} | {
        process.name: f"process {process.name}: {command_line(process)}" for process in running
    }


def nobody_has(shared: Path) -> bool:
    """Whether shared memory of this user is left; joblib's semaphores, of a test beside this one, it removes itself."""
    try:
        return shared.stat().st_uid == os.getuid() and not shared.name.startswith("sem.loky-") and not in_use(shared)
    except FileNotFoundError:  # it is just going
        return False


def left_since(before: Collection[str], folder: Path) -> dict[str, str]:
    """What is left that was not there before, after a moment for the system to end what was killed. Processes are
    killed then, so that a test that fails, or that nobody waits for, leaves the machine as it was.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := {key: name for key, name in traces(folder).items() if key not in before}:
        if time.monotonic() > deadline:
            for key in filter(str.isdigit, left):
                with suppress(ProcessLookupError):
                    os.kill(int(key), signal.SIGKILL)
            break
        time.sleep(0.1)
    return left


@pytest.fixture(scope="session", autouse=True)
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """A TMPDIR of its own for each session, and so for each of the workers that share the tests out: `traces` of one
    does not see the other's. Its path is short, since Ray's sockets lie in it. Gives what was there before any test, to
    which each adds what it has left.
    """
    tmp_path_factory.getbasetemp()  # stays where pytest wants it
    get_temp_dir()  # the fork server's own, which is removed later than ours
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in a shell's background; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="t") as folder:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        with Path(folder, MARK).open("w"):
            child = FORKS.Process(target=int)  # so that the fork server is there, and has its TMPDIR
            child.start()
            child.join()
            before = set(traces(Path(folder)))
            yield before
            left = left_since(before, Path(folder))
            assert not left


@pytest.fixture(autouse=True)
def short_collections() -> Iterator[None]:
    """Some of Flower's strategies collect garbage for every client: not all of torch and of pytest each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_is_left(session: set[str], tmp_path: Path) -> Iterator[None]:
    """After every test."""
    yield
    if len(os.listdir("/proc/self/fd")) > MANY_FILES:
        gc.collect()  # what a run has mapped stays open as long as anything of it is there
    left = left_since(session, tmp_path)
    session.update(left)
    assert not left
