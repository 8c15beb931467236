"""A strategy that is FedAvg with a robust rule, and another rule beside it."""

import pytest

from fl_bench.config.checked import checked
from fl_bench.errors import ConfigError


@pytest.mark.parametrize(
    ("strategy", "rule", "own"),
    [("krum", "none", "krum"), ("fedmedian", "none", "median"), ("bulyan", "krum", "bulyan")],
)
def test_are_refused(strategy: str, rule: str, own: str) -> None:
    said = f"robust={rule}: strategy={strategy} is FedAvg with robust={own}; use strategy=fedavg"
    with pytest.raises(ConfigError, match=said):
        checked([f"strategy={strategy}", f"robust={rule}"])


def test_the_same_twice_is_no_harm() -> None:
    assert checked(["strategy=fedmedian", "robust=median"]).robust == checked(["robust=median"]).robust
