"""fl-bench: federated-learning experiments from one command line."""

import os

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
