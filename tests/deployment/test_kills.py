"""A site, the link or the driver is killed at any moment, again and again: nothing is lost, no byte is another."""

import random
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import digests, leftovers, long
from test_deployment import NAMES, PATIENCE_SECONDS, WORDS, Deployment, deployed, whole  # noqa: F401  (fixtures)

KILLS, ROUNDS = 20, 30
SEED = 1
LONGEST_PAUSE = 2.0  # seconds
STALL_SECONDS = 120  # the most for a round, whoever was killed before: a driver begins again, a link listens again
RUN = "run"


def moments() -> list[tuple[int, float, str]]:
    """Whom to kill, after how many rounds since the last, and how many seconds then."""
    numbers = random.Random(SEED)
    victims = [("link", "driver", *NAMES)[k % 5] for k in range(KILLS)]
    numbers.shuffle(victims)
    return [(numbers.choice((0, 1, 1)), numbers.uniform(0, LONGEST_PAUSE), victim) for victim in victims]


def rounds_of(folder: Path) -> list[str]:
    """The driver's progress."""
    return [line for line in (folder / "driver.out").read_text().splitlines() if line.startswith("round")]


@long
@pytest.mark.timeout(1200)
def test_killed_at_any_moment(deployed: Deployment, tmp_path: Path) -> None:  # noqa: F811
    more = f"num_rounds={ROUNDS}"
    deployed.start("expected", *WORDS, more, "engine=inline", "hydra.run.dir=expected")
    expected = deployed.processes.pop("expected")
    expected.join(PATIENCE_SECONDS)
    assert expected.exitcode == 0
    restart: dict[str, Any] = {
        "link": deployed.start_link,
        "driver": lambda: deployed.start("driver", "resume", RUN),
        **{name: partial(deployed.start_site, name) for name in NAMES},
    }
    deployed.start("driver", *deployed.words(RUN, more))
    deployed.wait("driver", "round 0/")
    for number, (progress, pause, victim) in enumerate(moments()):
        deadline, seen = time.monotonic() + STALL_SECONDS, len(rounds_of(tmp_path))
        while len(rounds_of(tmp_path)) < seen + progress and deployed.processes["driver"].is_alive():
            assert time.monotonic() < deadline, deployed.said("driver")
            time.sleep(0.02)
        time.sleep(pause)
        if not deployed.processes["driver"].is_alive():  # it does not begin where there is no link
            *_, last = deployed.said("driver").splitlines()
            assert last.startswith(f"fl-bench: engine.link={deployed.link}: cannot be reached"), (number, last)
            restart["driver"]()
        print(f"kill {number}: {victim}; {rounds_of(tmp_path)[-1:]}")
        deployed.kill(victim)
        for kind in ("out", "err"):  # what each has said until it was killed stays
            shutil.copy(tmp_path / f"{victim}.{kind}", tmp_path / f"{victim}.{number}.{kind}")
        restart[victim]()
        if victim == "link":
            deployed.wait("link", "link: listening")
    driver = deployed.processes.pop("driver")
    driver.join(2 * PATIENCE_SECONDS)
    assert driver.exitcode == 0, deployed.said("driver")
    assert deployed.digests(RUN) == digests(tmp_path / "expected")
    said = "".join(file.read_text() for file in tmp_path.glob("*.err"))
    assert "Traceback" not in said, said
    deployed.close()
    assert leftovers(tmp_path) == []
