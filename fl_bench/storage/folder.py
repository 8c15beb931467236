"""What in a run's folder is ours: files of known names. Only they are deleted, and links are not followed."""

import re
from collections.abc import Iterator
from pathlib import Path

from fl_bench.errors import ConfigError

FOLDERS = ("checkpoint", "state", "figures", ".hydra")
NUMBER = r"(?:0|[1-9][0-9]*)"
FIGURES = (
    "curves|participation|client_losses|partition|predictions|confusion|sentences|round_(?:[0-9]{4}|[1-9][0-9]{4,})"
)
OURS = re.compile(
    r"(?:run\.json|model\.safetensors|(?:metrics|clients|partition|timing)\.csv"
    rf"|checkpoint/{NUMBER}\.safetensors|state/{NUMBER}/{NUMBER}\.safetensors"
    rf"|figures/(?:(?:{FIGURES})\.png|rounds\.gif)|\.hydra/(?:config|hydra|overrides)\.yaml)(?:\.tmp)?"
)
OUR_FOLDERS = re.compile(rf"checkpoint|state(?:/{NUMBER})?|figures|\.hydra")


def is_number(name: str) -> bool:
    """Whether a name is that of a client or a round, as fl-bench writes them."""
    return len(name) < 20 and bool(re.fullmatch(NUMBER, name))


def check_links(folder: Path) -> None:
    """Raise ConfigError for the first entry of a name of ours that is not a file, or a folder, of its own."""
    for path in _entries(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ConfigError(f"{path}: is a link or a device; a run's folder must have its files in it")
        if OURS.fullmatch(name) and not path.is_file():
            raise ConfigError(f"{path}: must be a file; move this folder of the same name elsewhere")
        if OUR_FOLDERS.fullmatch(name) and not path.is_dir():
            raise ConfigError(f"{path}: must be a folder; move this file of the same name elsewhere")


def clear(folder: Path, but: str = "run.json") -> None:
    """Delete the files that an earlier run has left here, and folders of ours that are empty then."""
    paths = list(_entries(folder))
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if OURS.fullmatch(name) and name != but and path.is_file():
            path.unlink()
    for path in reversed(paths):  # what is below comes first
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _entries(folder: Path) -> Iterator[Path]:
    """All that has a name of ours, and all that is in folders of ours; each folder before its entries."""
    for path in folder.iterdir():
        if path.name in FOLDERS:
            yield path
            yield from _below(path)
        elif OURS.fullmatch(path.name):
            yield path


def _below(folder: Path) -> Iterator[Path]:
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.iterdir():
            yield path
            yield from _below(path)
