"""Twenty sites on one machine, and a model of 100 MB: the bytes of one process, and nothing is left."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import compose, digests, leftovers, long
from test_deployment import PATIENCE_SECONDS, Deployment

from fl_bench.deployment import keys
from fl_bench.runs.share import share_out

MANY = tuple(f"site{k}" for k in range(1, 21))
FEW = MANY[:3]
LARGE = ("model=mlp", "model.hidden=[5000,4200]", "local.steps=1", "evaluate.every=2")  # 25 million numbers: 100 MB


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path)
    try:
        yield found
    finally:
        found.close()
    assert leftovers(tmp_path) == []


@long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("names", "words"), [(MANY, ()), (FEW, LARGE)])
def test_a_run_of_two_rounds(bare: Deployment, names: Sequence[str], words: Sequence[str]) -> None:
    about = ("task=mnist", f"num_clients={len(names)}", "num_rounds=2", "figures=false", *words)
    keys.make(bare.folder / "keys", names)
    share_out(compose(*about), bare.folder / "shares", dict.fromkeys(names, ()))
    bare.start("inline", *about, "engine=inline", "hydra.run.dir=inline")
    inline = bare.processes.pop("inline")
    inline.join(PATIENCE_SECONDS)
    assert inline.exitcode == 0, bare.said("inline")
    bare.start_link()
    for name in names:
        bare.start_site(name)
    bare.wait("link", "link: listening")
    engine = ("engine=deployment", f"engine.link={bare.link}", "engine.certs=keys/driver", f"engine.sites={len(names)}")
    begun = time.monotonic()
    bare.start("driver", *about, *engine, "engine.wait_s=200", "hydra.run.dir=run")
    driver = bare.processes.pop("driver")
    driver.join(2 * PATIENCE_SECONDS)
    print(f"{len(names)} sites: {time.monotonic() - begun:.0f} s from the command to the end")
    assert driver.exitcode == 0, bare.said("driver")
    assert "is left out" not in bare.said("driver")
    assert digests(bare.folder / "run") == digests(bare.folder / "inline")
