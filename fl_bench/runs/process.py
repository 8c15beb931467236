"""A process of its own for a run, so that whatever happens in it, nothing of it is left behind."""

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable

from fl_bench.errors import known, refuse

GRACE_SECONDS = 10.0  # for a run to finish its files after Ctrl-C
LOOK_SECONDS = 0.2  # between two looks whether the process is still there
ARM, DISARM = 255, 254  # bytes: `ARM` starts the round's timeout anew, `DISARM` stops it; others are exit codes

Arm = Callable[[bool], None]  # True arms, False disarms


class Crashed(Exception):
    """The process ended without an exit code, or gave no sign of life: the message says how."""


def in_own_process(function: Callable[[Arm], int], timeout: float | None = None) -> int:
    """Call `function` in a forked process and return its result, the exit code.

    It is given a function that arms or disarms the timeout. Raises Crashed where the process is killed or exits by
    itself, and where `timeout` seconds have passed since it was armed last. Ctrl-C or SIGTERM here becomes one
    SIGINT there; after GRACE_SECONDS, or at the second, its process group is killed. So it is when this process dies,
    however. Fork before anything starts threads.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = os.pipe()
    alive, hold = os.pipe()  # nobody writes: it ends when this process does, which alone holds it
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            os.close(hold)
            _guard(alive)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in a shell's background
            _say(theirs, _call(function, lambda on: _say(theirs, ARM if on else DISARM)))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)  # without the parent's clean-up, and without waiting for threads that never end
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(child, child)  # here too: whoever is first
    os.close(theirs)
    try:
        return _wait(child, ours, timeout)
    except KeyboardInterrupt:
        return _stop(child)
    finally:
        _kill_group(child)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        for pipe in (ours, alive, hold):
            os.close(pipe)


def _call(function: Callable[[Arm], int], arm: Arm) -> int:
    try:
        return function(arm)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if os.environ.get("FL_BENCH_DEBUG"):
            traceback.print_exc()
        return refuse(known(error))


def _guard(alive: int) -> None:
    """Fork a process that kills the group it is in when the pipe ends. (That the kernel kills a child with its parent
    is not enough: Ray's processes would live on.)
    """
    if os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.read(alive, 1)
        os.killpg(0, signal.SIGKILL)
    os.close(alive)


def _say(pipe: int, byte: int) -> None:
    os.write(pipe, bytes([byte]))


def _wait(child: int, pipe: int, timeout: float | None) -> int:
    said, heard, status = DISARM, 0.0, None
    while True:
        if select.select([pipe], [], [], LOOK_SECONDS if status is None else 0)[0] and (news := os.read(pipe, 4096)):
            said, heard = news[-1], time.monotonic()
        elif status is not None and said not in (ARM, DISARM):
            return said
        elif status is not None:
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has exited with {code}"
            raise Crashed(f"the process of the run {how}")
        elif timeout is not None and said == ARM and time.monotonic() - heard > timeout:
            raise Crashed(f"no round has ended for engine.round_timeout_s={timeout:g}")
        else:
            ended, found = os.waitpid(child, os.WNOHANG)
            status = found if ended else None


def _stop(child: int) -> int:
    with contextlib.suppress(KeyboardInterrupt, ProcessLookupError):
        os.kill(child, signal.SIGINT)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.05)
    return 130


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
