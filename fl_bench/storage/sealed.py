"""Files of tensors that are whole or not there, and that show when they are damaged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fl_bench.errors import Damaged
from fl_bench.storage.files import digest, write

NOTE = "fl-bench"  # the one entry of a file's metadata: with several, safetensors writes them in random order
LABEL = b"digest "
BLANK = b"0" * 32  # in place of the digest while it is computed


def seal(file: Path, tensors: Mapping[str, Tensor], facts: Any = None) -> None:
    """Write a safetensors file with `facts`, as JSON, and a digest of all its bytes in its metadata."""
    note = f"{LABEL.decode()}{BLANK.decode()} {json.dumps(facts)}"
    content = bytearray(save({name: tensor.contiguous() for name, tensor in tensors.items()}, {NOTE: note}))
    at = content.index(LABEL + BLANK) + len(LABEL)
    content[at : at + len(BLANK)] = digest(content).encode()
    write(file, content)


def unseal(file: Path) -> tuple[dict[str, Tensor], Any]:
    """What `seal` has written; Damaged where a bit of it is no longer what it was."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{file}: is missing") from None
    try:
        at = content.index(LABEL) + len(LABEL)
        end = at + len(BLANK)
        view = memoryview(content)
        if digest(view[:at], BLANK, view[end:]).encode() != content[at:end]:
            raise ValueError
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"][NOTE].split(" ", 2)[2])
        return load(content), facts
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError):
        raise Damaged(f"{file}: is damaged: its content does not match its digest") from None
