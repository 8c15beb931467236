"""Verbs are found by looking; what they say of themselves is what is there."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Launch, compose, fl_bench, forked, long
from omegaconf import DictConfig, OmegaConf

from fl_bench import cli, commands
from fl_bench.config.compose import GROUPS, MAIN, options
from fl_bench.config.origin import Origin
from fl_bench.errors import ConfigError

VERBS = {
    "audit", "certs", "check", "compare", "evaluate", "help", "link", "list", "promote", "replay", "rerun", "resume",
    "run", "share", "site", "tune", "verify",
}  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        assert cli.dispatch(words) == 0
    except SystemExit as end:  # argparse, after a verb's help
        assert end.code == 0  # noqa: PT017
    return capsys.readouterr().out


def test_help_lists_verbs_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--help")
    assert said(capsys, "-h") == said(capsys, "help") == said(capsys, "task=cifar", "--help") == text
    assert set(commands.ours()) >= VERBS
    for verb in commands.ours():
        assert re.search(rf"^  {verb} +\S.*\.$", text, re.M)
    for group in GROUPS:
        assert re.search(rf"^  {group} +{', '.join(options(group))}$", text, re.M)


def test_help_shows_each_key_with_its_comment(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "help")
    for line in (
        r"seed=0 +everything random follows from it",
        r"min_clients=1 +a round with fewer answers keeps the old model",
        r"checkpoint\.every=1 +rounds; 0: never",
        r"early_stop\.metric=null +a column; the run ends when it no longer gets better",
        r"early_stop\.patience=10 +evaluations without a better value of the metric",
        r"local\.steps=null +wins over epochs when set",
        r"engine\.client_resources\.num_gpus=0",
    ):
        assert re.search(rf"^  {line}$", text, re.M), line
    keys = MAIN.read_text().split("\nhydra:")[0]
    for comment in re.findall(r"^ *\w+: [^ {#\n][^#\n]*# (.*)$", keys, re.M):  # beside a plain value
        assert comment in text
    assert "hydra" not in text


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_a_verb_is_its_docstring_and_arguments(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "help", verb)
    assert said(capsys, verb, "--help") == text
    assert text.startswith(f"usage: fl-bench {verb} ")
    assert commands.find(verb).__doc__.splitlines()[0] in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"fl-bench \d+\.\d+\.\d+\n", said(capsys, "--version"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["lst"], "lst: is neither a verb nor key=value; did you mean list?"),
        (["xyzzy"], "xyzzy: is neither a verb nor key=value; known: audit, certs, check, compare, evaluate, export, "),
        (
            ["seed=1", "xyzzy"],
            "xyzzy: is neither a verb nor key=value; known: audit, certs, check, compare, evaluate, export, ",
        ),
        (["_common"], "_common: is neither a verb nor key=value; "),
        (["help", "lst"], "lst: is neither a verb nor key=value; did you mean list?"),
        (["verify"], "the following arguments are required: run_a; fl-bench verify --help says more"),
        (["list", "--confdir", "x"], "unrecognized arguments: --confdir x; fl-bench list --help says more"),
        (["resume"], "the following arguments are required: run_dir; fl-bench resume --help says more"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
        (["--cfg", "job", "--info"], "Only one of --run, --multirun, --cfg, --info"),
        *(
            ([*verb, "--config-dir", "/nowhere"], "--config-dir /nowhere: there is no such folder")
            for verb in ([], ["-m"], ["list"], ["tune"])
        ),
    ],
    ids=" ".join,
)
def test_what_is_no_verb_or_does_not_fit_it(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        cli.dispatch(words)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize("words", [["list"], ["seed=1"], ["--help"]], ids=" ".join)
def test_a_current_folder_that_is_gone(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="the current folder is gone: go to one that exists"):
        cli.dispatch(words)


@pytest.mark.parametrize("words", [["list", "--config-dir", "mine"], ["--config-dir", "mine", "list"],
                                   ["--config-dir=mine", "list"], ["-cd", "mine", "list"]])  # fmt: skip
def test_list_has_the_users_own_options(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "strategy").mkdir(parents=True)
    (tmp_path / "mine" / "strategy" / "zeta.yaml").write_text("# my own idea\nserver: {}\n")
    (tmp_path / "mine" / "strategy" / "plain.yaml").write_text("server: {}\n")  # has no comment
    monkeypatch.chdir(tmp_path)
    text = said(capsys, *words)
    assert re.search(r"^  zeta +my own idea$", text, re.M)
    assert re.search(r"^  plain$", text, re.M)
    assert re.search(r"^  fedavg +the weighted mean", text, re.M)
    assert "zeta" in said(capsys, "--config-dir", "mine", "--help")


def test_a_verb_of_another_package(tmp_path: Path) -> None:
    (tmp_path / "plots-1.dist-info").mkdir()
    (tmp_path / "plots-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plots\nVersion: 1\n")
    (tmp_path / "plots-1.dist-info" / "entry_points.txt").write_text(
        "[fl_bench.commands]\nplot = plots\nbroken = plots_that_are_not\nlist = plots\nwrong = plots:Wrong\n"
    )
    (tmp_path / "plots.py").write_text(
        '"""Draw something."""\n'
        "def arguments(parser):\n    parser.add_argument('what')\n"
        "def command(given):\n    print('drawing', given.what)\n    return 1\n"
        "class Wrong:\n    arguments = lambda parser: None\n    command = lambda given: 1 / 0\n"
    )
    result = fl_bench("plot", "circles", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (1, "drawing circles\n", "")
    assert "Draw something." in fl_bench("help", "plot", cwd=tmp_path).stdout
    assert re.search(r"^  plot +from plots$", fl_bench("help", cwd=tmp_path).stdout, re.M)
    assert "plot?" in fl_bench("plto", cwd=tmp_path).stderr
    assert "task=" in fl_bench("list", cwd=tmp_path).stdout  # ours goes first
    result = fl_bench("wrong", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "fl-bench: wrong: ZeroDivisionError: division by zero (plots.py:9)\n"
    result = fl_bench("broken", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "fl-bench: broken: plots_that_are_not cannot be imported: No module named 'plots_that_are_not'\n"
    )


@pytest.mark.parametrize(
    "words", [["list"], ["--help"], ["verify", "--help"], ["--cfg", "job"], ["--version"]], ids=" ".join
)
def test_a_reader_that_goes_away_is_no_error_message(words: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [str(Path(sys.executable).with_name("fl-bench")), *words]
    result = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert result.stderr == ""
    assert result.returncode in (0, 1)  # argparse hides it where Python does not buffer


@pytest.mark.parametrize("words", ["--help", "list", "--version", "lsit", "lr=1"])
def test_what_runs_nothing_imports_nothing_heavy(words: str, tmp_path: Path) -> None:
    program = (
        f"import sys\nfrom fl_bench import cli\nsys.argv = ['fl-bench', {words!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'flwr', 'ray', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("engine", ["inline", "simulation"])
def test_a_run_says_what_it_does_before_it_imports_torch(engine: str, tmp_path: Path) -> None:
    program = (
        f"import sys\nfrom fl_bench import cli\nfrom fl_bench.runs import launch\n"
        f"sys.argv = ['fl-bench', 'engine={engine}', 'strategy=krum', 'num_clients=7', 'hydra.run.dir=run']\n"
        "launch._run = lambda *given: print('torch' in sys.modules) or 0\ncli.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.stdout == "False\n"
    assert result.stderr == ("fl-bench: mnist with krum, 7 clients, 100 rounds: preparing engine and data\n")


def test_hydras_own_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "seed=3", "--cfg", "job", "num_rounds=4").startswith("seed: 3\nnum_rounds: 4\n")
    assert said(capsys, "--cfg", "job", "--resolve", "--package", "local").startswith("# @package local\nepochs: 1\n")
    assert "Config search path" in forked("--info", "searchpath", cwd=tmp_path).stdout  # a run silences Hydra's logging
    assert "See https://hydra.cc for more info" in said(capsys, "--hydra-help")
    assert not list(tmp_path.iterdir())


SMALL = ("engine=inline", "figures=false", "num_rounds=1", "local.steps=1", "data=synthetic", "data.num_samples=100")
CHOICES = {
    "task": "mnist", "strategy": "fedprox", "partition": "iid", "data": "synthetic", "compression": "fp16",
    "compression/down": "none", "network": "ideal", "engine": "inline", "experiment": None,
}  # fmt: skip


def origin(folder: Path) -> tuple[dict[str, str | None], list[str]]:
    record = json.loads((folder / "run.json").read_text())
    return {group: record["choices"][group] for group in CHOICES}, record["overrides"]


@long
def test_a_run_knows_the_options_and_words_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, "strategy=fedprox", "compression=fp16", "clients_per_round=${num_clients}"]
    said(capsys, *words, "hydra.run.dir=run")
    run, again = tmp_path / "run", tmp_path / "run_again"
    assert origin(run) == (CHOICES, words)
    later = ["num_rounds=2", "engine=simulation", "engine.client_resources.num_cpus=1"]
    assert forked("resume", "run", *later, cwd=tmp_path).returncode == 0  # Ray reads its settings when it is imported
    kept = [word for word in words if not word.startswith(("num_rounds=", "engine="))]
    assert origin(run) == (CHOICES | {"engine": "simulation"}, [*kept, *later])
    assert json.loads((run / "run.json").read_text())["final"]["round"] == 2
    said(capsys, "rerun", "run", "engine=inline", "checkpoint.every=0")
    later = ["num_rounds=2", "engine.client_resources.num_cpus=1", "engine=inline", "checkpoint.every=0"]
    assert origin(again) == (CHOICES, [*kept, *later])
    said(capsys, "-m", "sweep.parallel=1", *words, "seed=0,1")
    cells = sorted(file.parent for file in tmp_path.glob("outputs/multirun/*/*/run.json"))
    assert [choices for choices, _ in map(origin, cells)] == [CHOICES, CHOICES]
    assert [(found[0], found[-1]) for _, found in map(origin, cells)] == [(words[0], f"seed={n}") for n in (0, 1)]
    said(capsys, "-m", "sweep.parallel=1", *words, "seed=0,1", "resume=true")
    assert [origin(cell)[1][-1] for cell in cells] == ["seed=0", "seed=1"]


def test_a_rerun_on_another_engine_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Origin] = []

    def launch(cfg: DictConfig, folder: Path, resume: bool, origin: Origin) -> int:
        seen.append(origin)
        return 2

    monkeypatch.setattr("fl_bench.commands.rerun.launch", launch)
    config = OmegaConf.to_container(compose(*SMALL), resolve=True)
    (tmp_path / "run").mkdir()
    record = {"config": config, "choices": CHOICES, "overrides": ["engine=inline"]}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert commands.call("rerun", [str(tmp_path / "run"), "engine=simulation"]) == 2
    assert seen[0].choices == CHOICES | {"engine": "simulation"}
    assert seen[0].overrides == ["engine=simulation"]  # the later word for a key


def test_a_rerun_makes_its_data_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DictConfig] = []

    def launch(cfg: DictConfig, *_: object) -> int:
        seen.append(cfg)
        return 2

    monkeypatch.setattr("fl_bench.commands.rerun.launch", launch)
    config = OmegaConf.to_container(compose(*SMALL, f"data.cache={tmp_path / 'cache'}"), resolve=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"config": config, "choices": CHOICES}))
    for words in ([], ["data.cache=other"]):
        assert commands.call("rerun", [str(tmp_path / "run"), *words]) == 2
    assert [cfg.data.cache for cfg in seen] == [None, "other"]


@long
def test_ctrl_c_in_a_sweep_says_how_to_go_on_with_all_of_it(tmp_path: Path) -> None:
    words = ["-m", *SMALL[:2], "num_rounds=100000,100001", "strategy=fedprox", "clients_per_round=${num_clients}"]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("fl-bench")), *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not list(tmp_path.glob("outputs/multirun/*/*/checkpoint/??.*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    last = errors.splitlines()[-1]
    assert process.returncode == 130
    assert (
        last
        == f"fl-bench: stopped by Ctrl-C; to go on with the sweep: {shlex.join(['fl-bench', *words, 'resume=true'])}"
    )
    assert "fl-bench resume" not in errors
    states = [json.loads(file.read_text())["status"] for file in tmp_path.glob("outputs/multirun/*/*/run.json")]
    assert states == ["interrupted", "interrupted"]


def test_a_run_goes_on_with_an_engine_of_ones_own(tmp_path: Path, launch: Launch) -> None:
    (tmp_path / "conf" / "engine").mkdir(parents=True)
    (tmp_path / "conf" / "engine" / "mine.yaml").write_text("# mine\n_target_: fl_bench.engines.inline.Inline\n")
    run = launch("num_rounds=1")
    assert (
        commands.call("resume", [str(run), "num_rounds=2", "engine=mine", "--config-dir", str(tmp_path / "conf")]) == 0
    )
    assert json.loads((run / "run.json").read_text())["choices"]["engine"] == "mine"
    with pytest.raises(ConfigError, match=r"evaluate\.clients=false, so no client was evaluated"):
        commands.call("replay", [str(run), "--round", "1", "--client", "0", "--evaluation"])


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("engine.ray.address=3", "engine.ray.address=3: must be HOST:PORT, auto or null"),
        ("engine._target_=collections.Counter", "engine._target_=collections.Counter: must name a class derived from"),
    ],
)
def test_an_engine_that_is_none(word: str, line: str, tmp_path: Path) -> None:
    result = forked("num_rounds=1", word, "hydra.run.dir=run", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"fl-bench: {line}")
