"""The link: Flower's SuperLink in this process, so that no child of it can be left behind."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from fl_bench.deployment.keys import CA, CLAIM, SERVER, SERVER_KEY
from fl_bench.errors import RunError

ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a link that listens there reaches itself


def address(host: str, port: int) -> str:
    """HOST:PORT, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve(
    certs: Path, host: str, port: int, database: Path | None, nodes: Mapping[str, bytes], ready: Callable[[], None]
) -> NoReturn:
    """Serve until a signal ends it; `ready` is called once it listens and has let the sites' public keys in.

    Raises RunError where it cannot.
    """
    os.environ |= ENVIRONMENT
    from fl_bench.deployment.runtime_api import register, superlink
    from fl_bench.deployment.transport import with_remedy

    words = ["--host", host, "--port", str(port), "--isolation", "process", "--enable-supernode-auth"]
    words += ["--disable-runtime-dependency-installation", "--superexec-auth-secret-file", str(certs / CLAIM)]
    words += ["--ssl-certfile", str(certs / SERVER), "--ssl-keyfile", str(certs / SERVER_KEY)]
    words += ["--ssl-ca-certfile", str(certs / CA), *(["--database", str(database)] if database else [])]
    trouble: list[Exception] = []

    def let_in() -> None:
        try:
            register(address(EVERYWHERE.get(host, host), port), (certs / CA).read_bytes(), nodes)
            ready()
        except Exception as error:
            trouble.append(error)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=let_in, daemon=True).start()
    try:
        superlink(words)  # it returns when a signal has ended it
    except KeyboardInterrupt:
        pass
    except SystemExit as end:
        raise RunError(f"the link has ended with {end.code}; FL_BENCH_DEBUG=1 shows its log") from end
    if trouble:
        raise RunError(f"--host {host}: the link cannot reach itself: {with_remedy(trouble[0])}") from trouble[0]
    raise KeyboardInterrupt
