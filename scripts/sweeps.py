"""Sweeps of fl-bench for the pages under docs/: run, and the tables that they leave."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.progress import track

HERE = Path(__file__).resolve().parent.parent


def run_all(sweeps: Sequence[tuple[str, Path]]) -> None:
    """Run `fl-bench -m WORDS` for each, two at a time, each on the inline engine, into its folder."""
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(_sweep, words, folder) for words, folder in sweeps]
        for future in track(as_completed(futures), "sweeps", total=len(futures)):
            future.result()


def runs(folder: Path) -> list[Path]:
    """The folders of the runs below `folder`."""
    return sorted(file.parent for file in folder.rglob("metrics.csv"))


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    first, *others = (f"| {' | '.join(map(str, row))} |" for row in (header, *rows))
    return [first, "|---" * len(header) + "|", *others]


def _sweep(words: str, folder: Path) -> None:
    command = [str(Path(sys.executable).with_name("fl-bench")), "-m", *words.split()]
    command += ["engine=inline", "figures=false", f"hydra.sweep.dir='{folder}'"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
