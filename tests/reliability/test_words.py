"""Command lines by the thousand, of every kind that somebody might type: none ends in a traceback or touches a file
that is not its own.

Each is made from its number, so that one that fails can be made again. All is as it is for a user, but that no round is
trained, and that a simulation's workers are this process.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import compose

from fl_bench import cli, commands
from fl_bench.config.compose import GROUPS, options
from fl_bench.config.explain import known_keys
from fl_bench.engines.inline import Inline
from fl_bench.engines.simulation import Simulation
from fl_bench.federation.rounds import Rounds
from fl_bench.runs.execute import execute

COUNT, CHUNK = int(os.environ.get("FL_BENCH_WORDS", "300")), 50
SECONDS = 10
BASE = ("engine=inline", "num_rounds=2", "num_clients=3", "local.steps=1", "figures=false", "data=synthetic",
        "data.num_samples=40")  # fmt: skip
VALUES = [
    "", "0", "-1", "1", "2", "nan", "inf", "-inf", "1e400", "1e-400", "-0.0", "99999999999999999999", "2147483648",
    "9223372036854775808", "-9223372036854775809", "null", "None", "~", "true", "false", "yes", "[]", "{}", "[1,2]",
    "[nan]", "[1,[2,[3]]]", "{a:1}", "{a:{b:[c]}}", "{_target_:os.system}", "''", '""', "'a b'", '"a,b"', "a b",
    "ä", "日本", "🙂", "a'b", 'a"b', "a\\b", "\\", "'", '"', "a\nb", "\t", "\x1b[31m", "\x00", "${seed}", "${nope}",
    "${oc.env:HOME}", "${oc.env:NOPE}", "${now:%Y}", "${", "$", "${..x}", "${seed", "a=b", "=", "==", "a,b", ",",
    "1,", ",1", "(", ")", "[", "]", "{", "}", "*", "?", "#", "%", "@", "&", "|", ";", "!", "`id`", "$(id)",
    "../../etc/passwd", "/dev/null", "/dev/zero", "/proc/self/mem", "~/x", "file://x", "http://x", "0x10", "1_000",
    "1e3", ".5", "5.", "01", "+1", "--1", "1" * 400, "x" * 5000, "[" * 60 + "]" * 60, "choice(1,2)", "range(3)",
    "range(0)", "glob(*)", "interval(0,1)", "sort(2,1)", "shuffle(1,2)", "tag(a,1)", "int(2.5)", "str(1)",
    "float(x)", "json_str(1)", "extend_list(1)", "foo(1)", "fedprox", "sam", "fl_bench.build.build", "os.system",
    "builtins.exec", "torch.nn.Linear", "fl_bench", ".", "..", "a.b.c", "a..b",
]  # fmt: skip
HYDRA = [
    "hydra.run.dir=../canary", "hydra.run.dir=.", "hydra.run.dir=", "hydra.run.dir=/dev/null",
    "hydra.run.dir=/proc/x", "hydra.run.dir=run", "hydra.run.dir=new", "hydra.run.dir='a b/ü'",
    "hydra.run.dir=null", "hydra.run.dir=3", "hydra.run.dir=../canary/notes.txt", "hydra.run.dir=${nope}",
    "hydra.run.dir=[1]", "hydra.sweep.dir=../canary", "hydra.sweep.subdir=.", "hydra.sweep.subdir=..",
    "hydra.output_subdir=x", "hydra.job.chdir=true", "hydra.job.name=ü", "hydra.verbose=true",
    "hydra.mode=MULTIRUN", "hydra.mode=x", "hydra.nope=1", "hydra=null", "hydra.launcher=null",
    "hydra/launcher=nope", "hydra/launcher=basic", "hydra/sweeper=nope", "hydra.searchpath=[nope]",
    "hydra.searchpath=x", "hydra.job.env_set={A:1}", "hydra.callbacks={a:1}", "hydra/job_logging=default",
    "hydra.runtime.output_dir=/", "~hydra", "hydra.job.num=x", "hydra.sweep.dir=null", "hydra.job_logging=3",
]  # fmt: skip
FLAGS = [
    ["--cfg", "job"], ["--cfg", "all"], ["--cfg", "nope"], ["--cfg"], ["--cfg", "job", "--resolve"], ["--resolve"],
    ["--cfg", "job", "--package", "strategy"], ["--cfg", "job", "-p", "nope"], ["--info"], ["--info", "nope"],
    ["--info", "searchpath"], ["--multirun"], ["--run"], ["--run", "-m"], ["--config-name", "foo"],
    ["-cn", "config"], ["--config-path", "nope"], ["--config-dir"], ["--config-dir", "nope"],
    ["--config-dir", "notes.txt"], ["--experimental-rerun", "x"], ["--nope"], ["-x"], ["--"], ["-"], ["--version"],
    ["-h"], ["--help"], ["--hydra-help"], ["--shell-completion"], ["-sc", "install=bash"], ["--trust", "x"],
    ["--cfg", "job", "-m"],
]  # fmt: skip
YAMLS = {
    "tab": b"# x\nserver:\n\t_target_: x\n", "binary": bytes(range(256)), "latin": b"# x\na: \xe9\n", "empty": b"",
    "list": b"- 1\n- 2\n", "text": b"hello", "null": b"null", "number": b"3", "loop": b"a: &a [*a]\n",
    "twice": b"a: 1\na: 2\n", "open": b"a: [1, 2\n", "brace": b"a: {b: 1\n", "quote": b"a: 'x\n",
    "colon": b"a: b: c\n", "deep": b"a: " + b"[" * 3000, "target3": b"server: {_target_: 3}\n",
    "target_nowhere": b"server: {_target_: no.where.X}\n", "noserver": b"client: {}\n",
    "servernull": b"server: null\n", "serverlist": b"server: [1]\n", "defaults": b"defaults: 3\n",
    "default2": b"defaults:\n  - nope\n", "self": b"defaults:\n  - self\n",
    "package": b"# @package nope..x\na: 1\n", "global": b"# @package _global_\nnope: 1\n",
    "seed": b"# @package _global_\nseed: x\n", "interpolation": b"server: ${nope}\n",
    "extra": b"server: {_target_: flwr.serverapp.strategy.FedAvg, nope: 1}\n",
    "check": b"server: {_target_: flwr.serverapp.strategy.FedAvg}\ncheck: 3\n", "keys": b"1: 2\nnull: 3\ntrue: 4\n",
    "bom": b"\xef\xbb\xbfa: 1\n", "merge": b"a: &x {b: 1}\nc: {<<: *x}\n",
    "tag": b"a: !!python/object/apply:os.system [id]\n", "date": b"a: 2020-01-01\n",
    "huge": b"a: 1" + b"0" * 5000 + b"\n", "two": b"a: 1\n---\nb: 2\n", "nul": b"a: \x00\n",
    "module": b"client: {_target_: antigravity_nope.X}\n",
}  # fmt: skip
HEAVY = ("mlflow", "tensorboard", "wandb")  # to import, for ten seconds and more
VERBS = ["run", "list", "check", "resume", "verify", "rerun", "replay", "export", "help"]
NEAR = ["runn", "lsit", "plot", "train", "halp", "sweep", "start", "", " ", "ü", "-", "config", "version"]
KEYS = [key for key in known_keys() if not key.startswith("strategy.check")]

Words = list[str]
Kind = Callable[[random.Random], Words]


def odd_value(chance: random.Random) -> Words:
    return [f"{chance.choice(KEYS)}={chance.choice(VALUES)}"]


def near_key(chance: random.Random) -> Words:
    key = list(chance.choice([*KEYS, *GROUPS]))
    place = chance.randrange(len(key))
    key[place : place + chance.randint(0, 1)] = chance.choice(["", "x", ".", "_", "/", "@", ":", " ", "ü", "-", "A"])
    return [f"{''.join(key)}={chance.choice(VALUES)}"]


def change(chance: random.Random) -> Words:
    key = chance.choice([*KEYS, *GROUPS, *(key.split(".")[0] for key in KEYS), "", "nope", "a.b.c", "_target_"])
    return [
        chance.choice(["~{0}", "~{0}={1}", "+{0}={1}", "++{0}={1}", "+{0}", "{0}"]).format(key, chance.choice(VALUES))
    ]


def group(chance: random.Random) -> Words:
    """Tasks whose data takes long, or comes from elsewhere, apart."""
    name = chance.choice([g for g in GROUPS if g not in ("task", "data")])
    known = [option for option in options(name) if option not in HEAVY]
    option = chance.choice([*known, *VALUES, f"{known[0]}x"])
    return [
        chance.choice(["{0}={1}", "{0}={1}", "+{0}={1}", "{0}@x={1}", "{0}@:={1}", "{0}/x={1}"]).format(name, option)
    ]


def option_and_key(chance: random.Random) -> Words:
    name = chance.choice([g for g in GROUPS if g not in ("task", "data", "experiment", "engine")])
    word = f"{name}={chance.choice([option for option in options(name) if option not in HEAVY])}"
    keys = [key for key in known_keys([word]) if key.startswith(f"{name.split('/')[0]}.") and ".check." not in key]
    return [word, *(f"{chance.choice(keys)}={chance.choice(VALUES)}" for _ in range(chance.randint(1, 2)) if keys)]


def hydras(chance: random.Random) -> Words:
    return [chance.choice(HYDRA), *odd_value(chance)[: chance.randint(0, 1)]]


def flags(chance: random.Random) -> Words:
    return [*chance.choice(FLAGS), *chance.choice([[], ["seed=1"], odd_value(chance)])]


def sweep(chance: random.Random) -> Words:
    values = ",".join(chance.choice(VALUES) for _ in range(2))
    word = f"{chance.choice([*KEYS, 'strategy', 'partition'])}={chance.choice([values, *VALUES[-16:]])}"
    return ["-m", word, *chance.choice([[], ["resume=true"], ["hydra.sweep.dir=../canary"], ["hydra.sweep.dir=sweep"]])]


def own_yaml(chance: random.Random) -> Words:
    name, place = chance.choice(list(YAMLS)), chance.choice(["strategy", "task", "network", "partition", "experiment"])
    verb = chance.choice([[], [], ["list"], ["check", f"strategy={name}"], ["help"], ["--cfg", "job"]])
    return [
        *verb,
        "--config-dir",
        f"own/{name}",
        *([] if verb[:1] in (["list"], ["help"], ["check"]) else [f"{place}={name}"]),
    ]


def verb(chance: random.Random) -> Words:
    paths = ["run", "nope", "notes.txt", ".", "../canary", "/dev/null", "", "ü", "damaged", "empty"]
    more = [
        ["num_rounds=3"], odd_value(chance), ["--round", "1", "--client", "0"],
        ["--round", chance.choice(VALUES), "--client", "9"], ["--to", "none"], ["--to", chance.choice(VALUES)],
        ["--to"], [chance.choice(paths)], ["--trust", "x"], ["--nope"], ["-h"], ["engine=simulation"],
        ["tracker=nope"], ["strategy=fedprox"], [], ["strategy=all", "nope=1"], ["--evaluation"],
    ]  # fmt: skip
    word = chance.choice([*VERBS, *NEAR])
    if word == "check":  # a check that is right trains, for seconds
        return [
            "check",
            *chance.choice([[], ["strategy=nope"], ["fedavg", "nope=1"], ["all", "local.lr=-1"], ["--nope"]]),
        ]
    return [word, *chance.choice([[], [chance.choice(paths)]]), *chance.choice(more)]


def several(chance: random.Random) -> Words:
    return [
        word
        for _ in range(chance.randint(2, 4))
        for word in chance.choice([odd_value, near_key, change, group])(chance)
    ]


KINDS: list[Kind] = [
    odd_value, odd_value, near_key, change, group, option_and_key, hydras, flags, sweep, own_yaml, verb, several,
]  # fmt: skip


def words_of(number: int) -> Words:
    """The command line of this number."""
    chance = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    words = kind(chance)
    if kind in (verb,) or words[:1] in (["list"], ["check"], ["help"]):
        return words
    return [*BASE, *words] if chance.random() < 0.7 else [*words, *BASE]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type in, with a run, and beside it things that are not to be touched."""
    scratch, here = tmp_path / "scratch", tmp_path / "here"
    for folder in (
        scratch,
        here / "run",
        here / "empty",
        here / "damaged",
        tmp_path / "canary" / "state",
        tmp_path / "home",
    ):
        folder.mkdir(parents=True)
    for name in (
        "canary/notes.txt",
        "canary/state/1.txt",
        "canary/multirun.yaml",
        "here/notes.txt",
        "here/damaged/run.json",
    ):
        (tmp_path / name).write_text("mine")
    for name, content in YAMLS.items():
        for place in ("strategy", "task", "network", "partition", "experiment"):
            (here / "own" / name / place).mkdir(parents=True, exist_ok=True)
            (here / "own" / name / place / f"{name}.yaml").write_bytes(content)
    assert execute(compose(*BASE, "num_rounds=1"), here / "run", scratch) == 0
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(Rounds, "__iter__", lambda rounds: iter(()))
    monkeypatch.setattr(Rounds, "after", lambda rounds, *given: iter(()))
    monkeypatch.setattr("fl_bench.runs.execute._draw", lambda made: None)
    monkeypatch.setattr(Simulation, "own_process", False)
    monkeypatch.setattr(Simulation, "workers", Inline.workers)
    return tmp_path


def kept(world: Path) -> Iterator[tuple[str, int, bytes]]:
    """All that no command may change: everything but the folders of runs."""
    for path in sorted(world.rglob("*")):
        name = path.relative_to(world).as_posix()
        if path.is_file() and (name.startswith(("canary/", "home/", "here/own/")) or name.count("/") < 2):
            yield name, path.stat().st_mtime_ns, path.read_bytes()


def spoken(words: Words) -> int:
    """The exit code of the command that these words are."""
    sys.argv = ["fl-bench", *words]
    with pytest.raises(SystemExit) as end:
        cli.main()
    return 0 if end.value.code is None else int(end.value.code)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", range(0, COUNT, CHUNK))
def test_no_command_line_is_a_riddle(
    world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], first: int
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    before, failed = list(kept(world)), []
    for number in range(first, min(first + CHUNK, COUNT)):
        words, began = words_of(number), time.monotonic()
        os.chdir(world / "here")
        try:
            code, trouble = spoken(words), ""
        except BaseException as error:
            if isinstance(error, pytest.fail.Exception | KeyboardInterrupt):
                raise
            code, trouble = -1, f"raises {type(error).__name__}: {error}"
        out, err = capfd.readouterr()
        lines = [
            line
            for line in err.splitlines()
            if not line.startswith("fl-bench: note: ") and "preparing engine" not in line
        ]
        if not trouble and "Traceback" in out + err:
            trouble = "has a traceback"
        elif not trouble and code not in (0, 2) and words[:1] != ["verify"] and "damaged" not in words:
            trouble = f"ends with {code}"
        elif (
            not trouble
            and code == 2
            and "-m" not in words
            and (len(lines) != 1 or not lines[0].startswith("fl-bench: "))
        ):
            trouble = f"says {len(lines)} lines"
        elif not trouble and any(not (char.isprintable() or char == "\n") for char in err):
            trouble = "says what a terminal obeys"
        elif not trouble and time.monotonic() - began > SECONDS:
            trouble = f"takes {time.monotonic() - began:.0f} s"
        elif not trouble and (touched := {name for name, *_ in {*kept(world)} ^ {*before}}):
            trouble, before = f"touches {touched}", list(kept(world))
        if trouble:
            failed.append(f"{number}: {words}: {trouble}: {' | '.join(lines)[-300:]}")
    assert not failed, "\n".join(failed)


def test_the_verbs_here_are_all_there_are() -> None:
    assert sorted(VERBS) == sorted(commands.ours())
