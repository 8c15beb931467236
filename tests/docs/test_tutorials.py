"""The tutorials work: a reader who copies their files and types their commands gets what they show."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import long

import fl_bench

ROOT = Path(fl_bench.__file__).parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def steps(page: Path) -> list[tuple[str, str]]:
    """What a reader does, in order: (file, its text) or ("", a command with what it shall print)."""
    found = []
    for kind, title, text in BLOCK.findall(page.read_text()):
        if title:
            found.append((title, text))
        elif kind == "console":
            found += [("", part) for part in re.split(r"^\$ ", text.replace("\\\n", ""), flags=re.MULTILINE) if part]
    return found


def type_in(command: str, folder: Path) -> str:
    """All that it prints; its exit code is 0, or 2 where it says what is wrong."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    here = command.replace("PYTHONPATH=. ", f"PYTHONPATH=.{os.pathsep}{ROOT} ")  # this checkout, installed or not
    done = subprocess.run(
        here, shell=True, cwd=folder, env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 or done.stdout.splitlines()[-1].startswith("fl-bench: "), done.stdout
    return done.stdout


def pattern(shown: str) -> str:
    """Numbers may be others on other machines, and `...` stands for anything."""
    parts = re.split(rf"(\.\.\.\n|\.\.\.|{NUMBER})", shown)
    known = {"...\n": r"(?:.*\n)*?", "...": r".*"}
    return "".join(known.get(p, NUMBER if re.fullmatch(NUMBER, p) else re.escape(p)) for p in parts)


@long
@pytest.mark.parametrize("names", [["own-strategy"], ["own-task"], ["first-experiment", "reading-results"]])
def test_a_tutorial(names: list[str], tmp_path: Path) -> None:
    commands = 0
    for file, text in (step for name in names for step in steps(TUTORIALS / f"{name}.md")):
        if file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        else:
            command, _, shown = text.partition("\n")
            printed = type_in(command, tmp_path)
            assert re.fullmatch(pattern(shown), printed), f"{command}\n{printed}"
            commands += 1
    assert commands >= 4


def test_all_words_of_all_tutorials_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Without running them: every command of the other tutorials composes."""
    import hydra

    from fl_bench.config.rules import validate
    from fl_bench.config.schema import CONF

    checked = 0
    for name in ("first-experiment", "reading-results"):
        for file, text in steps(TUTORIALS / f"{name}.md"):
            command, _, shown = text.partition("\n")
            words = [] if file else [word for word in shlex.split(command) if "=" in word]
            if command.startswith("fl-bench ") and words and not shown.startswith("fl-bench: "):
                single = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in words if not word.startswith("hydra.")]
                with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                    validate(hydra.compose("config", single))
                checked += 1
    assert checked >= 3
