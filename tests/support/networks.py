"""Several hosts on one machine: network namespaces with addresses of their own, joined by a bridge. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache


class Network:
    """Hosts by name. Files, processes and memory are shared; only the network is not."""

    def __init__(self, prefix: str, names: Sequence[str]) -> None:
        self._prefix = prefix
        self._addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=1)}

    def address(self, name: str) -> str:
        return self._addresses[name]

    def within(self, name: str) -> list[str]:
        """The words before a command that runs it on that host."""
        return ["ip", "netns", "exec", f"{self._prefix}-{name}"]

    def cut_off(self, name: str) -> None:
        """Unplug the host's cable."""
        _ip("-n", f"{self._prefix}-switch", "link", "set", name, "down")

    def plug_in(self, name: str) -> None:
        _ip("-n", f"{self._prefix}-switch", "link", "set", name, "up")

    def build(self) -> None:
        switch = f"{self._prefix}-switch"
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for name, address in self._addresses.items():
            host = f"{self._prefix}-{name}"
            _ip("netns", "add", host)
            _ip("-n", switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("-n", switch, "link", "set", name, "master", "bridge", "up")
            _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")

    def remove(self) -> None:
        for name in ("switch", *self._addresses):
            # what was never added cannot be removed
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", f"{self._prefix}-{name}")


@contextlib.contextmanager
def network(*names: str) -> Iterator[Network]:
    """Build a network of hosts, and take it away at the end."""
    made = Network(f"prolong{os.getpid()}", names)
    try:
        made.build()
        yield made
    finally:
        made.remove()


@cache
def why_no_networks() -> str:
    """Why networks cannot be made here; "" if they can."""
    try:
        with network("probe"):
            return ""
    except FileNotFoundError:
        return "no `ip` (iproute2) here"
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)
