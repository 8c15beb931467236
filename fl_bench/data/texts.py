"""Labelled texts, and the words of them as numbers."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData, Ragged

WORD = re.compile(r"\w+|[^\w\s]")  # letters and digits in a row, or any other sign
UNKNOWN = "?"  # the word with number 0, for all that are not in the vocabulary


class Texts(NamedTuple):
    """Texts with their labels `y` [N], who each is from, `source` [N], and whether it is for the test set [N]."""

    texts: Sequence[str]
    y: NDArray
    classes: Sequence[str]
    is_test: NDArray[np.bool_]
    source: NDArray | None = None
    sources: Sequence[str] = ()

    @property
    def train(self) -> list[str]:
        """The texts of the training rows."""
        return [self.texts[row] for row in np.flatnonzero(~self.is_test).tolist()]

    def federated(self, tokens: Callable[[list[str]], Ragged]) -> FederatedData:
        """As columns "tokens", "y" and, where there are sources, "source"."""
        test = [self.texts[row] for row in np.flatnonzero(self.is_test).tolist()]
        train, test_set = (
            {"tokens": tokens(texts), "y": self.y[rows].astype(np.int64)}
            for texts, rows in ((self.train, ~self.is_test), (test, self.is_test))
        )
        if self.source is not None:
            train["source"] = self.source[~self.is_test].astype(np.int64)
        return FederatedData(train, test_set, tuple(self.classes), sources=tuple(self.sources))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; a sign is a word.

    Examples:
        >>> words_of("Not bad, is it?")
        ['not', 'bad', ',', 'is', 'it', '?']
    """
    return WORD.findall(text.lower())


def vocabulary_of(texts: Iterable[str], most: int) -> list[str]:
    """UNKNOWN, then the `most` most frequent words of these texts; of equally frequent ones, the first by alphabet.

    Examples:
        >>> vocabulary_of(["b a", "c b"], most=2)
        ['?', 'b', 'a']
    """
    counts = Counter(word for text in texts for word in words_of(text))
    return [UNKNOWN, *sorted(counts, key=lambda word: (-counts[word], word))[:most]]


def numbered(texts: Iterable[str], vocabulary: Sequence[str], max_length: int) -> Ragged:
    """The numbers of the first `max_length` words of each text, as int32."""
    numbers = {word: number for number, word in enumerate(vocabulary) if number}
    return Ragged.of([[numbers.get(word, 0) for word in words_of(text)[:max_length]] for text in texts])
