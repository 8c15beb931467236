import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fl_bench.data import fetch, reviews


def test_generated_labels_follow_from_the_words() -> None:
    texts, labels = reviews.generated(500, np.random.default_rng(0))
    assert 0.4 < np.mean(labels) < 0.6
    for text, label in zip(texts, labels, strict=True):
        votes = 0
        for clause in text.rstrip(".").split(", "):
            word = clause.split()[-1]
            if " was " in clause and word in reviews.ADJECTIVES[0] + reviews.ADJECTIVES[1]:
                votes += (1 if word in reviews.ADJECTIVES[1] else -1) * (-1 if "not" in clause.split() else 1)
        assert (votes > 0) == bool(label)


def sdist(folder: Path) -> Path:
    """A package in the form of the real one, with one clear and one unclear sentence a source."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for source in reviews.SOURCES:
            content = f"1\t2.5\tgood {source}\n2\t0.2\tunclear\n3\t-1.0\tbad\ttab\n".encode()
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{source}_GroundTruth.txt")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    file = folder / reviews.SDIST
    with tarfile.open(file, mode="w:gz") as archive:
        info = tarfile.TarInfo(reviews.INNER)
        info.size = len(inner.getvalue())
        archive.addfile(info, io.BytesIO(inner.getvalue()))
    return file


def test_rated_sentences_are_read_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "CACHE", tmp_path)
    monkeypatch.setattr(reviews, "SHA256", hashlib.sha256(sdist(tmp_path).read_bytes()).hexdigest())
    rated = reviews.rated()
    assert rated.texts[:2] == ["good movieReviewSnippets", "bad\ttab"]
    assert rated.labels == [1, 0] * 4
    assert rated.sources == [0, 0, 1, 1, 2, 2, 3, 3]
