"""Sentences with a sentiment: generated ones, and real ones that people have rated."""

import io
import tarfile
from typing import NamedTuple

import numpy as np

from fl_bench.data.fetch import package_file
from fl_bench.data.texts import Texts

LABELS = ("negative", "positive")


def _words(text: str) -> list[str]:
    return text.split()


SUBJECTS = _words(
    "plot acting script music camera ending dialogue pacing cast story humour editing lighting villain hero"
    " soundtrack opening finale direction chemistry"
)
ADJECTIVES = (  # by tone: negative, positive
    _words(
        "dull clumsy boring awful weak hollow tedious messy forgettable lifeless bland painful shallow stale ugly"
        " predictable noisy confused lazy cold"
    ),
    _words(
        "brilliant charming gripping superb strong moving fresh elegant memorable lively rich delightful deep"
        " inventive beautiful surprising subtle clever generous warm"
    ),
)
ADVERBS = ["", "", "rather ", "truly ", "very ", "quite ", "often ", "simply "]
ASIDES = [
    "i saw it on a train", "my brother chose it", "it runs for two hours", "we watched it twice",
    "the cinema was full", "it was shot in winter", "they made it years ago", "a friend lent me the disc",
]  # fmt: skip
NEGATED = 0.1  # of the clauses say the opposite of their adjective


def generated(count: int, rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Generated reviews: one or three clauses of opinion, their majority being the label, and sometimes an aside."""
    texts, labels = [], []
    for _ in range(count):
        clauses, votes = [], 0
        for _ in range(rng.choice([1, 3])):
            tone, negated = int(rng.integers(2)), rng.random() < NEGATED
            subject, adverb = rng.choice(SUBJECTS), rng.choice(ADVERBS)
            verb = "was not" if negated else "was"
            clauses.append(f"the {subject} {verb} {adverb}{rng.choice(ADJECTIVES[tone])}")
            votes += 1 if tone != negated else -1
        if rng.random() < 0.5:
            clauses.insert(int(rng.integers(len(clauses) + 1)), str(rng.choice(ASIDES)))
        texts.append(", ".join(clauses) + ".")
        labels.append(int(votes > 0))
    return texts, labels


class Rated(NamedTuple):
    """Real sentences with the sign of their mean rating, and the number of their source in SOURCES."""

    texts: list[str]
    labels: list[int]
    sources: list[int]


SOURCES = ("movieReviewSnippets", "amazonReviewSnippets", "tweets", "nytEditorialSnippets")
SDIST, SHA256 = "vaderSentiment-3.3.2.tar.gz", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
CLEAR = 0.5  # ratings nearer to 0 than this, of -4 to 4, are left out


def rated() -> Rated:
    """Sentences from movies, Amazon, tweets and news, each rated by people (Hutto and Gilbert, ICWSM 2014; MIT).

    They come in the source package of vaderSentiment 3.3.2, which pip downloads on first use.
    """
    result = Rated([], [], [])
    with tarfile.open(fileobj=io.BytesIO(package_file("reviews", SDIST, SHA256))) as outer:
        inner = outer.extractfile(INNER)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            for number, source in enumerate(SOURCES):
                (name,) = (n for n in archive.getnames() if n.endswith(f"/{source}_GroundTruth.txt"))
                ratings = archive.extractfile(name)
                assert ratings is not None
                for line in ratings.read().decode(errors="replace").splitlines():
                    _, score, text = line.split("\t", 2)
                    if abs(float(score)) > CLEAR:
                        result.texts.append(text)
                        result.labels.append(int(float(score) > 0))
                        result.sources.append(number)
    return result


def generated_split() -> Texts:
    """Generated reviews, 3,000 to train and 600 to test."""
    rng = np.random.default_rng(0)
    train, test = generated(3000, rng), generated(600, rng)
    y = np.array(train[1] + test[1])
    return Texts(train[0] + test[0], y, LABELS, is_test=np.arange(len(y)) >= len(train[1]))


def rated_split() -> Texts:
    """Rated sentences, see `rated`; a random tenth is the test set."""
    found = rated()
    is_test = np.random.default_rng(0).random(len(found.texts)) < 0.1
    return Texts(found.texts, np.array(found.labels), LABELS, is_test, np.array(found.sources), SOURCES)
