"""A process of its own for a run, so that whatever happens in it, nothing of it is left behind."""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

GRACE_SECONDS = 10.0  # for a run to finish its files after Ctrl-C
PR_SET_PDEATHSIG = 1  # prctl(2)


def in_own_process(function: Callable[[], int]) -> int:
    """Call `function` in a forked process and return its result, the exit code.

    Ctrl-C or SIGTERM here becomes one SIGINT there; after GRACE_SECONDS, or at the second, its process group is
    killed. The process dies with this one (on Linux). Fork before anything starts threads.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        code = 1
        try:
            code = function()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # without the parent's clean-up, and without waiting for threads that never end
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _wait(child)
    except KeyboardInterrupt:
        return _stop(child)
    finally:
        signal.signal(signal.SIGTERM, previous)
        _kill_group(child)


def _wait(child: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 1  # ended by a signal


def _stop(child: int) -> int:
    with contextlib.suppress(KeyboardInterrupt, ProcessLookupError):
        os.kill(child, signal.SIGINT)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return 130
            time.sleep(0.05)
    _kill_group(child)
    os.waitpid(child, 0)
    return 130


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
