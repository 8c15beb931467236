"""task=instruct over a real link: sites are given the language model with their rows, and send adapters."""

import signal
from pathlib import Path

import pytest
from conftest import digests, long
from test_deployment import PATIENCE_SECONDS, Deployment

WORDS = (
    "task=instruct", "num_clients=4", "num_rounds=2", "local.steps=2", "evaluate.batch_size=128", "figures=false",
)  # fmt: skip


@long
@pytest.mark.timeout(600)
def test_sites_that_train_adapters_write_what_one_process_writes_though_one_is_killed(tmp_path: Path) -> None:
    here = Deployment(tmp_path)
    try:
        for words in (
            (*WORDS, "engine=inline", "hydra.run.dir=inline"),
            ("certs", "keys", "--sites", "site1,site2"),
            ("share", "inline", "shares", "--sites", "site1,site2"),
        ):
            code, said = here.call(*words)
            assert code == 0, said
        here.start_link()
        here.wait("link", "link: listening")
        for name in ("site1", "site2"):
            here.start_site(name)
        engine = ("engine=deployment", f"engine.link={here.link}", "engine.certs=keys/driver", "engine.sites=2")
        here.start("driver", *WORDS, *engine, "hydra.run.dir=run")
        here.wait("driver", "round 1/2")
        here.kill("site2", signal.SIGKILL)
        here.start_site("site2")
        here.processes["driver"].join(PATIENCE_SECONDS)
        assert here.processes["driver"].exitcode == 0, here.said("driver")
    finally:
        here.close()
    assert digests(tmp_path / "run") == digests(tmp_path / "inline")
