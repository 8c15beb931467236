"""Hosts in network namespaces, each at the end of a wire that this process is: packets come late, or never."""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import forks

TUN, IS_IP, SET_INTERFACE, NEW_NETWORK = Path("/dev/net/tun"), 0x1001, 0x400454CA, 0x40000000  # of Linux
Packet = tuple[float, int, int, bytes]  # when it is due, its number, the wire that it goes into, and what it is


class Wires:
    """Namespaces by host, of which the n-th has the address 10.77.0.n."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Raises OSError or CalledProcessError where namespaces and their interfaces may not be made."""
        self.delay = self.loss = 0.0  # seconds of a way; share of packets
        self._lost = random.Random(0)
        self._over = threading.Event()
        self._ends: dict[bytes, int] = {}  # by address
        self.interfaces: dict[str, str] = {}  # by host
        self._names = {host: f"fl-bench-{os.getpid()}-{host}" for host in hosts}
        try:
            for number, host in enumerate(hosts, start=1):
                self._make(host, number)
        except BaseException:
            self.close()
            raise
        self._pump = threading.Thread(target=self._carry, daemon=True)
        self._pump.start()

    def address(self, host: str) -> str:
        return f"10.77.0.{list(self._names).index(host) + 1}"

    def namespace(self, host: str) -> str:
        return f"/run/netns/{self._names[host]}"

    def switch(self, host: str, state: str) -> None:
        """`up` or `down`, as if somebody pulled the plug."""
        _ip("-n", self._names[host], "link", "set", self.interfaces[host], state)

    def close(self) -> None:
        self._over.set()
        if hasattr(self, "_pump"):
            self._pump.join()
        for end in self._ends.values():
            os.close(end)
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def _make(self, host: str, number: int) -> None:
        name = self._names[host]
        _ip("netns", "add", name)
        end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        self._ends[bytes((10, 77, 0, number))] = end
        made = fcntl.ioctl(end, SET_INTERFACE, struct.pack("16sH22x", b"flb%d", IS_IP))
        interface = self.interfaces[host] = made[:16].rstrip(b"\0").decode()
        _ip("link", "set", interface, "netns", name)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", interface)
        _ip("-n", name, "link", "set", interface, "up")

    def _carry(self) -> None:
        under_way: list[Packet] = []
        number = 0
        while not self._over.is_set():
            wait = min(0.1, max(0, under_way[0][0] - time.monotonic())) if under_way else 0.1
            for end in select.select(self._ends.values(), [], [], wait)[0]:
                try:
                    packet = os.read(end, 65536)
                except OSError:  # the interface is down
                    continue
                to = self._ends.get(packet[16:20])
                if to is not None and packet[0] >> 4 == 4 and self._lost.random() >= self.loss:
                    number += 1
                    heapq.heappush(under_way, (time.monotonic() + self.delay, number, to, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                *_, to, packet = heapq.heappop(under_way)
                try:
                    os.write(to, packet)
                except OSError:
                    continue


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def command(namespace: str, words: Sequence[str], cwd: Path, environment: Mapping[str, str], outputs: Any) -> None:
    """The command, on the host of this namespace."""
    with open(namespace) as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "setns")
    forks.command(words, cwd, environment, outputs)
