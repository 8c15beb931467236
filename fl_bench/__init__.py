"""fl-bench: federated-learning experiments from one command line, or from Python: see docs/python.md."""

import os

TYPE_CHECKING = False  # which is what type checkers go by; typing is not imported for it
if TYPE_CHECKING:
    from fl_bench.api.run import Run, run
    from fl_bench.api.study import Study, load, sweep
    from fl_bench.errors import ConfigError, RunError

__all__ = ["ConfigError", "Run", "RunError", "Study", "load", "run", "sweep"]

# Before Flower, Ray or CUDA are imported, here and in every worker: nothing phones home, and a result repeats.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # workers wait for nobody; Ray would give them the lowest priority
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Fixed, not a default: results would depend on the number, and OpenBLAS ends its threads whenever the process forks, as
# Ray does while it starts, so that a matrix product that is under way in another thread never returns.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

_MODULES = {"api.run": ("Run", "run"), "api.study": ("Study", "load", "sweep"), "errors": ("ConfigError", "RunError")}


def __getattr__(name: str) -> object:
    """A public name, imported when it is first used: pandas would take half a second of every command and worker."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
