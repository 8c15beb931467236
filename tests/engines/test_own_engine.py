"""An engine from a user's own folder, with a key of its own."""

from pathlib import Path

from conftest import fl_bench, long

ENGINE = """
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fl_bench.engines.base import Connect
from fl_bench.engines.inline import Inline


@dataclass
class Regional(Inline):
    region: str

    @contextmanager
    def workers(self, scratch: Path) -> Iterator[Connect]:
        Path("started").write_text(self.region)
        with super().workers(scratch) as connect:
            yield connect
"""
YAML = """# this process, somewhere
_target_: my_engine.Regional
region: eu                    # where
"""
WORDS = ("--config-dir", "conf", "engine=regional", "num_rounds=1", "figures=false", "hydra.run.dir=run")


@long
def test_an_engine_may_have_a_key_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "conf" / "engine").mkdir(parents=True)
    (tmp_path / "conf" / "engine" / "regional.yaml").write_text(YAML)
    (tmp_path / "my_engine.py").write_text(ENGINE)
    result = fl_bench(*WORDS, "engine.region=us", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "started").read_text() == "us"
    result = fl_bench(*WORDS, "engine.region=3", "hydra.run.dir=other", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "fl-bench: engine.region=3: should be a valid string"
