"""The site builds without a warning, and nothing in it is fetched from elsewhere. Needs the extra `docs`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")


def test_the_site_builds_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "keys.html", "own-task.html", "strategies.base.html"} <= {page.name for page in pages}
    fetched = re.compile(r"""<(?:script|img|iframe)[^>]+src=["']https?:|<link[^>]+href=["']https?:""")
    assert [page.name for page in pages if fetched.search(page.read_text())] == []
    assert (tmp_path / "site" / "search" / "search_index.js").exists()
