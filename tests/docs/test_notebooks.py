"""The notebooks in examples/ run as they are, and are kept without what they print."""

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, long

nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(file: Path) -> list[Any]:
    return [cell for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_kept_without_outputs(file: Path) -> None:
    assert [(cell.outputs, cell.execution_count) for cell in cells(file)] == [([], None)] * len(cells(file))


SHOWN = {
    "first-run": ["", "round 5/5", "test_accuracy", "test_loss", "train_loss", "image/png", "(0.1,", "Linear("],
    "comparison": ["", "scaffold", "image/png", "image/png", "| verdict |", "p_holm", "report.html", "scaffold"],
}


@long
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(file, 4)
    client.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert [word for word, shown in zip(SHOWN[file.stem], outputs, strict=True) if word not in shown] == []
