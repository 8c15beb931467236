"""Private set intersection: what it finds, what it costs, and what each side sees."""

import hashlib

import numpy as np
import pytest

from fl_bench.errors import ConfigError
from fl_bench.vertical.alignment import Side, intersect
from fl_bench.vertical.columns import align, blocks


def test_it_finds_what_a_set_intersection_finds() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = (draw.choice(30_000, 10_000, replace=False) for _ in range(2))
    sides = [Side([b"%d" % number for number in ids], draw.bytes(32)) for ids in (ours, theirs)]
    match = intersect(*sides)
    common = set(ours.tolist()) & set(theirs.tolist())
    assert 3_000 < len(common) < 3_700
    assert ours[match.ours].tolist() == theirs[match.theirs].tolist()
    assert sorted(ours[match.ours].tolist()) == sorted(common)
    assert match.bytes_up == 10_000 * 32 + 4 * len(common)
    assert match.bytes_down == 2 * 10_000 * 32


def test_a_side_sees_no_id_and_no_hash_of_one() -> None:
    """What comes over is as random as its sender's secret: nobody can tell which id it is of."""
    names = [b"ann", b"bob", b"eve"]
    hashes = {hashlib.sha256(name).digest() for name in names}
    sent = Side(names, b"a" * 32).blinded()
    assert all(len(point) == 32 for point in sent)
    assert not hashes & set(sent)
    assert not set(sent) & set(Side(names, b"b" * 32).blinded())  # with another secret all are others
    # Who guesses an id cannot try whether it is there without that secret, but with both it is the same point.
    mine = Side([b"bob"], b"c" * 32)
    assert not set(mine.blinded()) & set(sent)
    assert mine.raised(sent)[1] == Side(names, b"a" * 32).raised(mine.blinded())[0]
    # What goes back is in the order in which it came, so that it tells nothing that the other had not before.
    assert mine.raised(sent[::-1]) == mine.raised(sent)[::-1]


@pytest.mark.parametrize("alignment", ["psi", "known"])
def test_the_rows_that_all_have(alignment: str) -> None:
    rows = np.arange(100, 150)
    given = {"num_columns": 7, "num_clients": 2, "columns": "split", "alignment": alignment, "seed": 3}
    found = align(rows, overlap=0.8, **given)  # type: ignore[arg-type]
    assert len(set(found.rows.tolist()) & set(rows.tolist())) == len(found.rows)
    assert 30 <= len(found.rows) < 40  # each lacks 10 of 50
    assert found.rows.tolist() == align(rows, overlap=0.8, **given | {"alignment": "known"}).rows.tolist()  # type: ignore[arg-type]
    common = len(found.rows)
    header, first, second, holder = found.table
    assert header[:5] == ("client", "first_column", "last_column", "rows", "aligned")
    assert (first[:5], second[:5]) == ((0, 0, 2, 40, common), (1, 3, 4, 40, common))
    assert holder == ("labels", 5, 6, 50, common, 0, 0)
    # Up 40 points and the places of 40 rows, down 50 points, those 40 again, and the places of the common rows.
    costs = (40 * 32 + 40 * 4, 90 * 32 + 4 * common) if alignment == "psi" else (0, 0)
    assert first[5:] == second[5:] == costs


def test_there_must_be_a_common_row() -> None:
    given = {"num_columns": 20, "columns": "split", "overlap": 0.1, "alignment": "known", "seed": 0}
    with pytest.raises(ConfigError, match=r"setting.overlap=0.1: no row is held by all of 10 parties; raise it"):
        align(np.arange(20), num_clients=10, **given)  # type: ignore[arg-type]


def test_each_party_needs_a_column() -> None:
    with pytest.raises(ConfigError, match="num_clients=7: must be less than 7, the columns of the data"):
        blocks(7, 7, "split")
