"""An installed fl-bench brings its configs along and works from any folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_works_from_any_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    conf = {str(file.relative_to(ROOT / "conf")) for file in (ROOT / "conf").rglob("*.yaml")}
    inside = tmp_path / "site" / "fl_bench" / "conf"
    assert {str(file.relative_to(inside)) for file in inside.rglob("*.yaml")} == conf
    assert (tmp_path / "site" / "fl_bench" / "tasks" / "sam_tiny" / "model.safetensors").exists()
    assert (tmp_path / "site" / "fl_bench" / "models" / "llama_tiny" / "model.safetensors").exists()
    assert {file.name for file in (tmp_path / "site" / "fl_bench" / "studies").glob("page.*")} == {
        "page.py", "page.html", "page.css", "page.js",
    }  # fmt: skip
    program = "import sys, fl_bench.cli as cli; assert 'site' in cli.__file__, cli.__file__; cli.main()"
    command = [sys.executable, "-c", program, "engine=inline", "num_rounds=1", "figures=false", "hydra.run.dir=run"]
    result = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "metrics.csv").exists()
