"""Split learning over a real link: each site holds the columns of its clients."""

from pathlib import Path

import numpy as np
import pytest
from conftest import compose, digests
from test_deployment import NAMES, Deployment

from fl_bench.data.arrays import FederatedData
from fl_bench.deployment import keys
from fl_bench.runs.share import share_out

WORDS = (
    "setting=vertical", "task=tabular", "data=digits", "num_clients=4", "setting.alignment=known", "num_rounds=2",
    "model=logistic", "strategy.width=3", "strategy.noise=0.1", "local.batch_size=500", "setting.overlap=0.9",
    "compression=quantize", "figures=false",
)  # fmt: skip


def test_a_site_has_its_columns_and_no_labels(tmp_path: Path) -> None:
    """64 columns are those of five parties: 13 of each, and 12 of the label holder."""
    share_out(compose(*WORDS), tmp_path, dict.fromkeys(NAMES, ()))
    held = {name: FederatedData.open(tmp_path / name) for name in NAMES}
    for name, columns in zip(NAMES, (slice(0, 26), slice(26, 39), slice(39, 52)), strict=True):
        for part in (held[name].train, held[name].test):
            seen = np.flatnonzero(np.asarray(part["x"]).any(axis=0))
            assert seen.min() >= columns.start
            assert seen.max() < columns.stop
            assert not np.asarray(part["y"]).any()
    first, second = np.split(np.asarray(held["site1"].train["x"]), 2)  # of clients 0 and 1
    assert len(first) == held["site2"].num_samples
    assert not first[:, 13:].any()
    assert not second[:, :13].any()


@pytest.mark.alone
def test_sites_write_what_one_process_writes(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys", NAMES)
    share_out(compose(*WORDS), tmp_path / "shares", dict.fromkeys(NAMES, ()))
    deployed = Deployment(tmp_path)
    try:
        deployed.start_link()
        for name in NAMES:
            deployed.start_site(name)
        engine = ("engine=deployment", f"engine.link={deployed.link}", "engine.certs=keys/driver", "engine.sites=3")
        for name, words in (("inline", ("engine=inline",)), ("run", engine)):
            code, said = deployed.call(*WORDS, *words, f"hydra.run.dir={name}")
            assert code == 0, said
        assert deployed.digests("run") == digests(tmp_path / "inline")
    finally:
        deployed.close()
