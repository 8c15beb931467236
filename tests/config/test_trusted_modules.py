"""Modules that a site trusts must be there."""

import pytest

from fl_bench.config.trust import check_modules
from fl_bench.errors import ConfigError


@pytest.mark.parametrize("name", ["nonsuch", "nonsuch.part", "json.nonsuch", "json.decoder.part", ""])
def test_a_module_that_cannot_be_imported_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--trust {name}: there is no such module here"):
        check_modules(["json", name])


def test_one_that_can_is_not() -> None:
    check_modules(["json.decoder", "csv"])
