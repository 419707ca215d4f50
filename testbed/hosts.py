"""Hosts on one machine: network namespaces, each joined to a router by a veth pair.

The router can drop what one host sends to another, or carry it late and with losses. That takes root's
rights over networks: root's own, or those of a user namespace. The machine's own network is not touched,
and nothing is left behind however a test ends: a namespace has no name, and goes with the processes that
are in it and the one that made it.
"""

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.packages import program
from testbed.slow_line import SlowLine

CLONE_NEWNET = 0x40000000
OUR_NETWORK = "/proc/thread-self/ns/net"
CUTS, BACK, SLOWED = 1_000, 20_000, 21_000
"""The order of the router's rules: what is cut, what comes back out of the slow line, what goes there."""
SLOW = 7
"""The router's table for what goes the slow way."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        raise RuntimeError(
            "Hosts with networks of their own can only be made as root, or by a command that "
            "testbed/own_network.sh runs."
        )
    raise OSError(number, os.strerror(number))


def _open_network() -> int:
    return os.open(OUR_NETWORK, os.O_RDONLY | os.O_CLOEXEC)


def _make_network() -> int:
    _check(_libc.unshare(CLONE_NEWNET))
    return _open_network()


class Host:
    """A network stack of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = "127.0.0.1"
        with ThreadPoolExecutor(1) as thread:  # It is the thread that moves, and ends there.
            self._network = thread.submit(_make_network).result()
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        """Its network as a file, for programs."""
        return f"/proc/{os.getpid()}/fd/{self._network}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Connections that this thread makes meanwhile, and processes that it starts, are this host's."""
        before = _open_network()
        try:
            _check(_libc.setns(self._network, CLONE_NEWNET))
            try:
                yield
            finally:
                _check(_libc.setns(before, CLONE_NEWNET))
        finally:
            os.close(before)

    def ip(self, command: str) -> None:
        """Runs ``ip`` on this host."""
        words = [program("ip", "iproute2"), *command.split()]
        with self.entered():
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"ip {command}, on {self.name}: {done.stderr.strip()}")

    def close(self) -> None:
        """Lets go of it; processes that still run there keep it."""
        os.close(self._network)


class Network:
    """Hosts around a router, and all that can happen between them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._router = self._made("router")
        self._hosts: list[Host] = []
        self._rules: list[int] = []
        with self._router.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _made(self, name: str) -> Host:
        host = Host(name)
        self._stack.callback(host.close)
        return host

    def host(self, name: str) -> Host:
        """Another host, that all others reach."""
        host = self._made(name)
        self._hosts.append(host)
        near, net = f"host{len(self._hosts)}", f"10.0.{len(self._hosts)}"
        host.address = f"{net}.2"
        self._router.ip(f"link add {near} type veth peer name eth0 netns {host.path}")
        self._router.ip(f"address add {net}.1/24 dev {near}")
        self._router.ip(f"link set {near} up")
        host.ip(f"address add {host.address}/24 dev eth0")
        host.ip("link set eth0 up")
        host.ip(f"route add default via {net}.1")
        return host

    # -- what can happen -----------------------------------------------------------------------

    def cut(self, sender: Host, receiver: Host, port: int | None = None) -> None:
        """Nothing that one sends to the other arrives, and nobody is told; the way back stays open.

        ``port``: only what is sent to, or from, that port of the receiver's or the sender's.
        """
        way = f"from {sender.address} to {receiver.address}"
        ends = (
            [""] if port is None else [f" ipproto tcp {end} {port}" for end in ("sport", "dport")]
        )
        for end in ends:
            self._add(CUTS, f"{way}{end} blackhole")

    def heal(self) -> None:
        """All arrives again, and in time."""
        while self._rules:
            self._router.ip(f"rule del pref {self._rules.pop()}")

    @contextmanager
    def slow(self, *hosts: Host, delay: float, jitter: float, loss: float) -> Iterator[SlowLine]:
        """What these hosts send and are sent takes so many seconds, each way, and a share of it is lost."""
        with self._router.entered():
            line = SlowLine(delay, jitter, loss)
        with line:
            self._router.ip(f"link set {line.name} up")
            self._router.ip(f"route add default dev {line.name} table {SLOW}")
            self._add(BACK, f"iif {line.name} lookup main")
            for host in hosts:
                for end in ("from", "to"):
                    self._add(SLOWED, f"{end} {host.address} lookup {SLOW}")
            try:
                yield line
            finally:
                self.heal()

    def _add(self, order: int, rule: str) -> None:
        """A number of its own for each: told to delete a rule, the kernel takes the first that fits."""
        number = order + len(self._rules)
        self._router.ip(f"rule add pref {number} {rule}")
        self._rules.append(number)
