"""Hosts with a network between them that is cut, slow and loses packets: the bytes are those of one process."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FORKS, digests, environment, long
from test_deployment import NAMES, PATIENCE_SECONDS, WORDS, Deployment, whole  # noqa: F401  (a fixture)
from wires import Wires, command

from fl_bench.deployment import keys

ROUNDS, CUT_SECONDS = 7, 20
DELAY, LOSS = 0.1, 0.05  # seconds of each way; of packets


class Apart(Deployment):
    """A deployment each of whose processes is on a host of its own."""

    def __init__(self, folder: Path, wires: Wires) -> None:
        super().__init__(folder)
        self.wires = wires
        self.link = f"{wires.address('link')}:8000"

    def start(self, name: str, *words: str) -> None:
        outputs = [self.folder / f"{name}.{kind}" for kind in ("out", "err")]
        for file in outputs:
            file.write_text("")
        arguments = (self.wires.namespace(name), words, self.folder, environment(self.folder), outputs)
        child = FORKS.Process(target=command, args=arguments)
        child.start()
        self.processes[name] = child


@pytest.fixture
def apart(tmp_path: Path, whole: Path) -> Iterator[Apart]:  # noqa: F811
    try:
        wires = Wires(("link", "driver", *NAMES))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "keys")
    keys.make(tmp_path / "keys", NAMES, [wires.address("link")])
    found = Apart(tmp_path, wires)
    try:
        found.start_link("--host", wires.address("link"))
        for name in NAMES:
            found.start_site(name)
        found.wait("link", "link: listening")
        yield found
    finally:
        found.close()
        wires.close()


@long
@pytest.mark.timeout(600)
def test_a_network_that_is_cut_and_slow_and_loses_packets_changes_nothing(apart: Apart) -> None:
    apart.start("driver", *WORDS, f"num_rounds={ROUNDS}", "engine=inline", "hydra.run.dir=expected")
    apart.processes.pop("driver").join(PATIENCE_SECONDS)
    apart.start("driver", *apart.words("run", f"num_rounds={ROUNDS}"))
    for round, host in ((1, "site2"), (3, "driver")):
        apart.wait("driver", f"round {round}/")
        apart.wires.switch(host, "down")
        time.sleep(CUT_SECONDS)
        apart.wires.switch(host, "up")
    apart.wait("driver", "round 4/")
    begun = time.monotonic()
    apart.wires.delay, apart.wires.loss = DELAY, LOSS
    driver = apart.processes.pop("driver")
    driver.join(PATIENCE_SECONDS)
    print(f"{(time.monotonic() - begun) / (ROUNDS - 4):.1f} s a round with delay and loss")
    assert driver.exitcode == 0, apart.said("driver")
    assert apart.digests("run") == digests(apart.folder / "expected")
