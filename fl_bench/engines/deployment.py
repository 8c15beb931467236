"""Real sites over a network, each with its own data: this process is the server of their run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fl_bench.config.rules import require, require_address, require_seconds
from fl_bench.engines.base import Connect, Engine

if TYPE_CHECKING:
    from fl_bench.deployment.told import Told
    from fl_bench.ledger.signers import Signers
    from fl_bench.storage.states import ClientStates


@dataclass
class Deployment(Engine):
    """Sites that `fl-bench site` runs, through a link that `fl-bench link` has started; see docs/deployment.md."""

    link: str | None
    certs: str | None
    sites: int
    wait_s: float
    round_timeout_s: float | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_address("engine.link", self.link)
        wish = "must be the folder driver that `fl-bench certs` has made"
        require("engine.certs", self.certs, isinstance(self.certs, str) and Path(self.certs).is_dir(), wish)
        require("engine.sites", self.sites, self.sites >= 1, "must be 1 or more")
        require_seconds("engine.wait_s", self.wait_s)
        require_seconds("engine.round_timeout_s", self.round_timeout_s)
        if self.resources["num_gpus"] == "auto":
            self.resources["num_gpus"] = 0  # here: nobody shares what this machine has

    @property
    def elsewhere(self) -> bool:
        return True

    def states(self, register: "ClientStates") -> "ClientStates":
        from fl_bench.storage.states import StatesElsewhere

        self._states = StatesElsewhere(register.folder, register.run)
        return self._states

    def ask(self, data: Path) -> "Told":
        return self._roster.ask(self.sites, self.wait_s)

    def signers(self, seed: int, num_clients: int) -> "Signers":
        return self._roster.signers()

    @contextmanager
    def workers(self, scratch: Path) -> Iterator[Connect]:
        from fl_bench.deployment import keys
        from fl_bench.deployment.roster import Roster
        from fl_bench.deployment.runtime_api import run_at
        from fl_bench.engines.site_grid import Patience, SiteGrid

        known, patience = keys.of_driver(Path(str(self.certs))), Patience(self.wait_s, self.round_timeout_s)
        wish = f"must be at most {len(known.sites)}: engine.certs has the keys of {', '.join(known.sites)}"
        require("engine.sites", self.sites, self.sites <= len(known.sites), wish)
        grids: list[SiteGrid] = []
        with run_at(str(self.link), known.ca, known.claim) as line:
            self._roster = Roster(line, known, scratch / "data")

            def connect() -> SiteGrid:
                grids.append(SiteGrid(line, self._roster, self.sites, self._states, patience))
                return grids[0]

            yield connect
            for grid in grids:
                grid.settle()
