"""What Hydra is told of this package, without a package hydra_plugins, which every other Hydra would import too."""

from hydra.core.plugins import Plugins

from fl_bench.studies.launcher import Parallel
from fl_bench.studies.sweeper import Grid
from fl_bench.studies.tuner import Tune

OURS = {f"{plugin.__module__}.{plugin.__name__}": plugin for plugin in (Parallel, Grid, Tune)}


def register() -> None:
    """Let Hydra take our launcher and our sweeper."""
    theirs = Plugins.is_in_toplevel_plugins_module
    Plugins.is_in_toplevel_plugins_module = staticmethod(  # type: ignore[method-assign, assignment]
        lambda name: name in OURS or theirs(name)
    )
    for plugin in OURS.values():
        Plugins.instance().register(plugin)
