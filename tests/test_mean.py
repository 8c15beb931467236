from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fl_bench.metrics import Mean, merge


def test_a_mean_of_uneven_batches_is_weighted() -> None:
    # 3 examples of mean 2 and 1 example of 10: (6 + 10) / 4, not (2 + 10) / 2
    assert merge([{"loss": Mean(6.0, 3)}, {"loss": Mean(10.0, 1)}])["loss"].value == 4.0


floats = st.floats(-1e6, 1e6)


@given(st.lists(floats, min_size=2, max_size=20), st.randoms())
def test_order_does_not_change_a_bit(totals: list[float], random: Random) -> None:
    shuffled = random.sample(totals, len(totals))
    assert merge({"m": Mean(t, 1)} for t in totals) == merge({"m": Mean(t, 1)} for t in shuffled)
