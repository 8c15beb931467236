"""What in a run's folder is ours: files of known names. Only they are deleted, and links are not followed."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fl_bench.errors import ConfigError

FOLDERS = ("checkpoint", "state", "figures", "audit", "ledger", ".hydra")
NUMBER = r"(?:0|[1-9][0-9]*)"
FIGURES = (
    "ledger|curves|participation|client_losses|partition|topology|consensus|parts"
    "|predictions|confusion|sentences|answers"
)
OURS = re.compile(
    r"(?:(?:run|told)\.json|split\.csv\.gz|(?:model|init)\.safetensors"
    r"|(?:metrics|clients|partition|sources|topology|parts|timing|evaluate|contribution|per_class|confusion)\.csv"
    rf"|ledger/{NUMBER}\.(?:json|f32)|checkpoint/{NUMBER}\.safetensors|state/{NUMBER}/{NUMBER}\.safetensors"
    rf"|figures/(?:(?:{FIGURES})\.(?:png|pdf)|round_(?:[0-9]{{4}}|[1-9][0-9]{{4,}})\.png|rounds\.gif)"
    r"|audit/(?:(?:audit|labels|canaries)\.csv|(?:inversion|labels|membership|leakage)\.(?:png|pdf))"
    r"|\.hydra/(?:config|hydra|overrides)\.yaml)(?:\.tmp)?"
)
OUR_FOLDERS = re.compile(rf"checkpoint|state(?:/{NUMBER})?|figures|audit|ledger|\.hydra")


def is_number(name: str) -> bool:
    """Whether a name is that of a client or a round, as fl-bench writes them."""
    return len(name) < 20 and bool(re.fullmatch(NUMBER, name))


def check_links(folder: Path) -> None:
    """Raise ConfigError for the first entry of a name of ours that is not a file, or a folder, of its own."""
    for name, entry in _entries(folder):
        is_file, is_folder = entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False)
        if not (is_file or is_folder):
            raise ConfigError(f"{entry.path}: is a link or a device; a run's folder must have its files in it")
        if is_folder and OURS.fullmatch(name):
            raise ConfigError(f"{entry.path}: must be a file; move this folder of the same name elsewhere")
        if is_file and OUR_FOLDERS.fullmatch(name):
            raise ConfigError(f"{entry.path}: must be a folder; move this file of the same name elsewhere")


def clear(folder: Path, but: str = "run.json") -> None:
    """Delete the files that an earlier run has left here, and folders of ours that are empty then."""
    folders = []
    for name, entry in list(_entries(folder)):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif OURS.fullmatch(name) and name != but:
            os.unlink(entry)
    for path in reversed(folders):  # what is below comes first
        if not os.listdir(path):
            os.rmdir(path)


def _entries(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All that has a name of ours, and all that is in folders of ours, each folder before what is in it.

    With its name below `folder`. An entry knows what it is without asking the system once more: there may be millions.
    """
    below = [("", str(folder))]
    while below:
        prefix, path = below.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if prefix or name in FOLDERS or OURS.fullmatch(name):
                    yield name, entry
                    if entry.is_dir(follow_symlinks=False):
                        below.append((f"{name}/", entry.path))
