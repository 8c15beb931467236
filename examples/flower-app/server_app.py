"""The server of an experiment of fl-bench, whose workers are the nodes of the Grid that Flower gives."""

import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_bench.build import call
from fl_bench.config.compose import compose
from fl_bench.config.rules import validate
from fl_bench.engines.base import Connect
from fl_bench.engines.inline import Inline
from fl_bench.runs.execute import execute

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    def nodes() -> Grid:
        while not list(grid.get_node_ids()):  # they come just after the server
            time.sleep(0.1)
        return grid

    class Given(Inline):
        def workers(self, scratch: Path) -> nullcontext[Connect]:
            return nullcontext(nodes)

    cfg = compose([*str(context.run_config["words"]).split(), "engine=inline"])
    validate(cfg)
    folder = Path(str(context.run_config["folder"]))
    folder.mkdir(parents=True)
    with TemporaryDirectory() as scratch:
        if code := execute(cfg, folder, Path(scratch), engine=call(Given, cfg.engine)):
            raise RuntimeError(f"the run has ended with {code}; its log says why")
