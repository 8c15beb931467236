"""What `import fl_bench` offers."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Launch, environment, leftovers
from hydra.core.override_parser.overrides_parser import OverridesParser
from made import make_run
from safetensors.torch import load_file

import fl_bench
from fl_bench.api import command
from fl_bench.errors import Interrupted

SMALL = ("engine=inline", "num_rounds=1", "data=synthetic", "data.num_samples=40", "num_clients=2")
FAKE = "import sys, os, time; print('\\n'.join(sys.argv[1].split('|')), flush=True); time.sleep({0}); sys.exit({1})"


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Let a command say these lines, and end with this exit code after so many seconds."""

    def start(*lines: str, code: int = 0, seconds: float = 0) -> None:
        program = FAKE.format(seconds, code)
        real = subprocess.Popen
        monkeypatch.setattr(
            command, "Popen", lambda _, **how: real([sys.executable, "-c", program, "|".join(lines)], **how)
        )
        monkeypatch.chdir(tmp_path)

    return start


def test_the_public_names() -> None:
    assert sorted(fl_bench.__all__) == ["ConfigError", "Run", "RunError", "Study", "load", "run", "sweep"]
    for name in fl_bench.__all__:
        assert getattr(fl_bench, name).__name__ == name
        assert name in dir(fl_bench)
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        fl_bench.runn  # noqa: B018
    assert (ROOT / "fl_bench" / "py.typed").exists()


def test_importing_costs_nothing_until_used(tmp_path: Path) -> None:
    heavy = "{'numpy', 'pandas', 'torch', 'hydra', 'omegaconf', 'flwr'}"
    program = f"import fl_bench, sys; print({heavy} & {{*sys.modules}})"
    out = subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, env=environment(tmp_path), text=True)
    assert out == "set()\n"


def test_words_may_be_keywords() -> None:
    keys = {"local.lr": 0.1, "figures": False, "strategy": "fedprox", "targets": (0.5, 0.9)}
    words = ["local.lr=0.1", "figures=false", "strategy=fedprox", "targets=[0.5,0.9]"]
    assert command.words_of(["task=cifar"], keys) == ["task=cifar", *words]
    assert command.words_of([], {"seed": [0, 1], "strategy": ["fedavg", "scaffold"]}, is_sweep=True) == [
        "seed=0,1",
        "strategy=fedavg,scaffold",
    ]


ODD = "runs/sp ace, a=b $HOME 'q' [x] \\ \\'ü\\"


@pytest.mark.parametrize("value", [ODD, "", " ", "3", "true", "null", "a,b", "[a]", "{a:b}", "choice(1,2)", "ü", "a b"])
def test_a_text_of_pythons_is_that_text_to_hydra(value: str) -> None:
    parse = OverridesParser.create().parse_override
    (text,), (several,) = command.words_of([], {"key": value}), command.words_of([], {"key": [[value, 1]]}, True)
    inside, swept = command.words_of([], {"key": {"a": [value]}})[0], command.words_of([], {"key": [value, 7]}, True)[0]
    assert parse(text).value() == value
    assert parse(several).value() == [value, 1]
    assert parse(inside).value() == {"a": [value]}
    assert parse(swept).is_sweep_override()
    assert [parse(f"key={found}").value() for found in parse(swept).sweep_string_iterator()] == [value, 7]
    assert parse(command.words_of([], {"key": Path(ODD)})[0]).value() == ODD


def test_the_folder_that_a_command_names_last(
    says: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a run").mkdir()
    says("fl-bench: note: x", "a run", "test_accuracy=0.5")
    assert command.call([]) == tmp_path / "a run"
    assert capsys.readouterr().out == "fl-bench: note: x\na run\ntest_accuracy=0.5\n"
    says("usage: ...")
    with pytest.raises(fl_bench.ConfigError, match=r"^--help: has made no run$"):
        command.call(["--help"])


def test_a_rounds_line_takes_the_place_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["begins\n", "round 9/10  a=1\n", "round 10/10  a\n", "ends\n"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert command._print(lines) == ["begins", "round 9/10  a=1", "round 10/10  a", "ends"]
    assert capsys.readouterr().out == "begins\n\rround 9/10  a=1\rround 10/10  a \nends\n"


ENDS = [
    (2, ["fl-bench: seed=x: is wrong"], fl_bench.ConfigError, "seed=x: is wrong"),
    (1, ["fl-bench: it fails", "fl-bench: note: hints"], fl_bench.RunError, "it fails"),
    (1, ["1/2  seed=0  done in 1.0 s  a=1", "2/2  seed=1  failed in 1.0 s  why", "."], fl_bench.RunError,
     "why (seed=1)"),
    (130, ["fl-bench: stopped by Ctrl-C"], Interrupted, "stopped by Ctrl-C"),
    (3, ["anything"], fl_bench.RunError, "fl-bench has ended with 3"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "lines", "kind", "line"), ENDS, ids=[str(end[3]) for end in ENDS])
def test_a_command_that_fails_is_an_error(
    says: Callable[..., None], code: int, lines: list[str], kind: type[Exception], line: str
) -> None:
    says(*lines, code=code)
    with pytest.raises(kind) as error:
        command.call([])
    assert str(error.value) == line


def test_an_interrupt_reaches_the_command_and_comes_back(says: Callable[..., None], tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where another test has begun the command here
    says("begins", seconds=60)
    threading.Timer(0.5, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        command.call([])
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 20
    assert leftovers(tmp_path) == []


def test_what_a_run_has_written(launch: Launch) -> None:
    run = fl_bench.Run(launch(*SMALL, "seed=3", "local.lr=0.1", "figures=true"))
    assert (run.status, run.config.seed, run.config.local.lr) == ("done", 3, 0.1)
    assert run.metrics["round"].tolist() == run.timing["round"].tolist() == [0, 1]
    assert run.clients[["round", "client"]].to_numpy().tolist() == [[1, 0], [1, 1]]
    assert run.final["test_loss"] == run.metrics["test_loss"].iloc[-1]
    assert run.figure().size == (1320, 480)
    assert "data:image/png" in run._repr_html_()
    with pytest.raises(fl_bench.ConfigError, match=r"^figure curvs: did you mean curves\?$"):
        run.figure("curvs")


def test_the_model_of_a_run(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    run = fl_bench.Run(launch(*SMALL))
    torch.manual_seed(7)
    model, then = run.model(), torch.rand(1)
    torch.manual_seed(7)
    assert then == torch.rand(1)  # the caller's generator is as it was
    assert not model.training
    saved = load_file(run.folder / "model.safetensors")
    tensors = model.state_dict()
    assert tensors.keys() == saved.keys()
    assert all(torch.equal(tensors[name], saved[name]) for name in saved)


def test_a_run_whose_layers_stay_with_the_clients_has_no_whole_model(launch: Launch) -> None:
    run = fl_bench.Run(launch(*SMALL, "strategy=fedper"))
    with pytest.raises(fl_bench.ConfigError, match=r"has no whole model: \S+bias, \S+weight stay with the clients$"):
        run.model()


def test_what_a_run_has_not_is_said(tmp_path: Path) -> None:
    with pytest.raises(fl_bench.ConfigError, match="is not the folder of a run"):
        fl_bench.Run(tmp_path)
    run = fl_bench.Run(make_run(tmp_path / "run", [0.5, 0.7], "local.lr=<b>"))
    with pytest.raises(fl_bench.ConfigError, match="has no figures: it has not ended, or had figures=false"):
        run.figure()
    (run.folder / "metrics.csv").unlink()
    with pytest.raises(fl_bench.ConfigError, match=r"has no metrics\.csv: no round has ended"):
        run.metrics  # noqa: B018
    assert "local.lr=&lt;b&gt;" in run._repr_html_()


@pytest.fixture
def study(tmp_path: Path) -> fl_bench.Study:
    """Two strategies with three seeds: scaffold ends 0.1, 0.2 and 0.3 higher."""
    for seed in range(3):
        for strategy, last in (("fedavg", 0.5), ("scaffold", 0.6 + seed / 10)):
            make_run(tmp_path / "s" / f"{strategy}{seed}", [0.1, last], f"strategy={strategy}", f"seed={seed}")
    return fl_bench.load(tmp_path / "s")


def test_a_study_answers(study: fl_bench.Study) -> None:
    answer = study.compare(baseline="fedavg")
    assert answer.differences["difference"].tolist()[1] == pytest.approx(0.2)
    assert study.table(baseline="scaffold")["difference"].tolist()[1] == pytest.approx(-0.2)
    assert str(answer).splitlines()[0].split()[:3] == ["arm", "n", "mean"]
    assert answer._repr_markdown_().startswith("| arm | n | mean |")
    assert "<th>scaffold</th>" in study._repr_html_()
    with pytest.raises(fl_bench.ConfigError, match="fedavgg"):
        study.compare(baseline="fedavgg")


def test_a_sweep_is_read_as_the_tutorial_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {"fedavg": (0.803, 0.779, 0.761), "scaffold": (0.876, 0.869, 0.853)}
    for strategy, values in ends.items():
        for seed, end in enumerate(values):
            words = (f"seed={seed}", f"strategy={strategy}")
            make_run(tmp_path / "runs" / "sweep" / ",".join(words), [0.1, end], *words)
    page = (ROOT / "docs" / "tutorials" / "reading-results.md").read_text()
    script, shown = (
        page.split(start)[1].split("```")[0] for start in ('"read_sweep.py"\n', "$ python read_sweep.py\n")
    )
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    assert capsys.readouterr().out == shown


def test_the_key_that_makes_an_arm(study: fl_bench.Study) -> None:
    assert fl_bench.load(*study.folders, by="strategy").runs["arm"].tolist() == ["fedavg"] * 3 + ["scaffold"] * 3
    both = fl_bench.load(*study.folders, by="strategy,num_rounds")
    assert both.runs["arm"].unique().tolist() == ["fedavg", "scaffold"]


def test_a_study_is_a_line_and_load_wants_a_folder(study: fl_bench.Study) -> None:
    assert repr(study) == str(study) == "<Study of 6 runs, 2 arms, 3 seeds, 1 setting; 0 left out>"
    with pytest.raises(fl_bench.ConfigError, match=r"^load\(\): must name a folder"):
        fl_bench.load()


def test_a_plot_has_a_line_for_each_arm(study: fl_bench.Study) -> None:
    (axes,) = study.plot(over="bytes").axes
    assert {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines} == {
        "fedavg": pytest.approx([0.1, 0.5]),
        "scaffold": pytest.approx([0.1, 0.7]),
    }
    assert [np.asarray(line.get_xdata())[-1] for line in study.plot(over="steps").axes[0].lines] == [12, 12]
    assert study.plot()._repr_png_()[:4] == b"\x89PNG"  # type: ignore[attr-defined]
    with pytest.raises(fl_bench.ConfigError, match=r"^over=byte: did you mean bytes\?$"):
        study.plot(over="byte")


def test_a_report_lies_where_it_is_wanted(study: fl_bench.Study, tmp_path: Path) -> None:
    page = study.report(tmp_path / "paper", at="area")
    assert page == tmp_path / "paper" / "report.html"
    assert f"fl-bench report {tmp_path / 's'} --at area --out {tmp_path / 'paper'}" in page.read_text()
