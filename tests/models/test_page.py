"""docs/models.md: its table has every option, and its example runs."""

import re
import shlex
from pathlib import Path

from conftest import ROOT, forked
from omegaconf import OmegaConf

from fl_bench.config.compose import options

PAGE = (ROOT / "docs" / "models.md").read_text()


def test_the_table_has_every_model_by_name() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(rows) == {name for name, file in options("model").items() if "_target_" in OmegaConf.load(file)}


def test_the_example_runs(tmp_path: Path) -> None:
    for name, text in re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (line,) = re.findall(r"^    PYTHONPATH=\. fl-bench (.*)$", PAGE, re.MULTILINE)
    small = ["num_rounds=1", "num_clients=2", "data=synthetic", "data.num_samples=20", "figures=false"]
    done = forked(*shlex.split(line), *small, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = forked(*shlex.split(line), *small, "model.hidden=x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "fl-bench: model.hidden=x: should be a valid integer"
