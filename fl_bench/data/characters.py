"""Texts as samples of the next character: windows of characters, each with the one that follows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData, Ints, Windows
from fl_bench.errors import ConfigError, note

NAMES = {" ": "space", "\n": "newline"}  # of characters that one does not see
SHARE = 0.8  # of a source's samples that are to train, the first ones: McMahan et al. 2017, section 3


class Sampling(NamedTuple):
    """How samples are made of a text: `length` characters and the one that follows, from every `stride`-th place."""

    alphabet: str  # by the number of a character; others become its first
    length: int
    stride: int  # of training samples
    test_stride: int


def next_characters(texts: Mapping[str, str], how: Sampling) -> FederatedData:
    """Columns "text", `Windows` of uint8 [length + 1], "y", the last of them, and "source"; `texts` has one of each.

    As in LEAF (Caldas et al. 2018, arXiv:1812.01097, and its data/utils/split_data.py), blanks and newlines are one
    blank, a source's first samples are to train, and of the others those are to test that begin `length` - 1 later.
    What is too short for both is left out.

    Raises:
        ConfigError: where no text is long enough.
    """
    texts = {name: " ".join(text.split()) for name, text in texts.items()}
    places = {name: _split(len(text), how.length) for name, text in texts.items()}
    kept = [name for name, (train, test) in places.items() if train and test]
    if not kept:
        raise ConfigError(f"data: no source has a text of about {6 * how.length} characters, which samples need")
    if short := len(texts) - len(kept):
        note(f"data: {short} of {len(texts)} sources are too short for samples, and are left out")
    flat, strange = numbers_of("".join(texts[name] for name in kept), how.alphabet)
    if strange:
        note(f"data: characters that are not in task.alphabet become {how.alphabet[0]!r}: {strange}")
    first = np.cumsum([0, *(len(texts[name]) for name in kept)])

    def starts(half: int, stride: int) -> list[NDArray]:
        """Where samples begin, to train (0) or to test (1), by source."""
        return [begin + np.array(places[name][half][::stride]) for begin, name in zip(first, kept, strict=False)]

    def columns(starts: NDArray) -> dict[str, Any]:
        text = Windows(flat, starts, np.array(how.length + 1))
        return {"text": text, "y": flat[starts + how.length].astype(np.int64)}

    train = starts(0, how.stride)
    source = np.repeat(np.arange(len(kept)), [len(part) for part in train])
    test = columns(np.concatenate(starts(1, how.test_stride)))
    return FederatedData(
        columns(np.concatenate(train)) | {"source": source}, test, classes_of(how.alphabet), sources=tuple(kept)
    )


def numbers_of(text: str, alphabet: str) -> tuple[NDArray[np.uint8], str]:
    """The numbers of its characters in the alphabet [len(text)], and those that are not there, which become 0.

    Examples:
        >>> numbers, strange = numbers_of("abbc", " ab")
        >>> numbers.tolist(), strange
        ([1, 2, 2, 0], 'c')
    """
    points, inverse = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
    characters = [chr(point) for point in points.tolist()]
    numbers = np.array([max(alphabet.find(character), 0) for character in characters], np.uint8)
    return numbers[inverse], "".join(character for character in characters if character not in alphabet)


def classes_of(alphabet: str) -> tuple[str, ...]:
    """The names of the characters, by their number."""
    return tuple(NAMES.get(character, character) for character in alphabet)


def _split(size: int, length: int) -> tuple[range, range]:
    """Where samples begin, to train and to test, in a text of so many characters."""
    samples = max(size - length, 0)
    train = int(SHARE * samples)
    return range(train), range(train + length - 1, samples)


def joined(texts: Sequence[str], source: Ints, sources: Sequence[str]) -> dict[str, str]:
    """By the name of a source: its texts, in their order, a blank between; `source` [len(texts)] has numbers."""
    found: dict[str, list[str]] = {name: [] for name in sources}
    for text, number in zip(texts, source.tolist(), strict=True):
        found[sources[number]].append(text)
    return {name: " ".join(parts) for name, parts in found.items()}
