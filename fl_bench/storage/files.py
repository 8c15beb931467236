"""Files that are whole or not there."""

import csv
import errno
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash


def digest(*parts: Any) -> str:
    """128 bits of XXH3 over buffers, one after another: against accidents, at the speed of memory."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def digest_of(file: Path) -> str:
    """The same of a file's content, of which only a piece at a time is in memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def write(file: Path, *parts: bytes | bytearray | memoryview) -> None:
    """All of the content, on disk when this returns; after a crash or on a full disk what was there before."""
    temporary = file.with_name(f"{file.name}.tmp")
    with naming(file):
        try:
            with temporary.open("wb") as stream:
                for part in parts:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync(file.parent)


def csv_of(rows: Iterable[Iterable[Any]]) -> bytes:
    """The rows of a table, the names of its columns first, as the content of a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Lets an OSError say which file it is about; on a full disk it would not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(file)
        raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder, and need not
            raise
    finally:
        os.close(descriptor)
