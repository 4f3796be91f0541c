"""Several hosts on one machine: network namespaces with addresses of their own, joined by a bridge. Needs root and iproute2.

A host's cable is perfect until `shape` puts a link with a rate, a delay and losses in its place (slow_link.py):

    host:    eth0                                       eth0
               |                                          |
    switch:  bridge                  bridge of its own: near ~~slow_link.py~~ far: bridge
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from time import monotonic

import msgspec

from .slow_link import LinkConditions

CLONE_NEWNET = 0x40000000
PREFIX = "prolong"  # of the namespaces of a network, before the pid of the process that made it and the network's number there
LINK_TIMEOUT_S = 60.0
_numbers = itertools.count()


class _PortState(msgspec.Struct):
    state: str = ""


class _LinkInfo(msgspec.Struct):
    info_slave_data: _PortState | None = None


class _Device(msgspec.Struct):
    """What `ip -json -details link` says of a network device."""

    ifname: str
    flags: list[str]
    operstate: str
    linkinfo: _LinkInfo | None = None

    @property
    def passes_frames(self) -> bool:
        port = self.linkinfo and self.linkinfo.info_slave_data
        return self.operstate == "UP" and (not port or port.state == "forwarding")


class Network:
    """Hosts by name, of nine letters at most. Files, processes and memory are shared; only the network is not."""

    def __init__(self, prefix: str, names: Sequence[str], *, mtu: int = 1500, congestion: str = "reno") -> None:
        """`congestion`: how TCP answers losses. Every kernel allows reno in a namespace; with bbr, losses cost far less."""
        self._prefix = prefix
        self._mtu = mtu
        self._congestion = congestion
        self._addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=1)}
        self._links: dict[str, subprocess.Popen[str]] = {}

    @property
    def names(self) -> list[str]:
        return list(self._addresses)

    def address(self, name: str) -> str:
        return self._addresses[name]

    def within(self, name: str) -> list[str]:
        """The words before a command that runs it on that host, which goes by its name."""
        named = ["unshare", "--uts", "sh", "-c", 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"', name]
        return ["ip", "netns", "exec", self.namespace(name), *named]

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread is on that host: sockets that it makes stay there, and `/proc/thread-self/net` tells of it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        host = os.open(f"/run/netns/{self.namespace(name)}", os.O_RDONLY)
        try:
            _enter(host)
            yield
        finally:
            _enter(home)
            os.close(host)
            os.close(home)

    def cut_off(self, name: str) -> None:
        """Unplug the host's cable."""
        _ip("-n", self._switch, "link", "set", name, "down")

    def plug_in(self, name: str) -> None:
        _ip("-n", self._switch, "link", "set", name, "up")
        self._await_devices(name)

    def shape(self, name: str, *, rate_mbit: float, delay_ms: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        """Give the host's cable a rate, a delay and a share of lost frames, in each direction; in place of what it had."""
        near, far = f"{name}-near", f"{name}-far"
        if name in self._links:
            self._close_link(name)
        else:
            _ip("-n", self._switch, "link", "add", f"{name}-own", "type", "bridge", "mcast_snooping", "0")
            _ip("-n", self._switch, "link", "set", f"{name}-own", "up", "mtu", f"{self._mtu}")
            for device, bridge in ((near, f"{name}-own"), (far, "bridge")):
                _ip("-n", self._switch, "tuntap", "add", "dev", device, "mode", "tap")
                _ip("-n", self._switch, "link", "set", device, "master", bridge, "up", "mtu", f"{self._mtu}")
            _ip("-n", self._switch, "link", "set", name, "master", f"{name}-own")
        conditions = LinkConditions(rate_mbit=rate_mbit, delay_ms=delay_ms, loss=loss, seed=seed, mtu=self._mtu)
        arguments = [near, far, msgspec.json.encode(conditions).decode()]
        command = [*self.within("switch"), sys.executable, "-m", "prolong.bench.slow_link", *arguments]
        link = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self._links[name] = link
        if _read_line(link) != "ready\n":
            raise RuntimeError(f"the link of {name} did not start: exit code {link.wait(LINK_TIMEOUT_S)}")
        self._await_devices(name)

    def link_counters(self, name: str) -> dict[str, int]:
        """Frames in both directions of a shaped link: passed, lost, dropped by a full queue, refused by a cut cable."""
        link = self._links[name]
        assert link.stdin is not None
        link.stdin.write("\n")
        link.stdin.flush()
        return msgspec.json.decode(_read_line(link), type=dict[str, int])

    def sent_bytes(self, name: str) -> int:
        """What the host has sent to others."""
        with self.inside(name):
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        (line,) = (line for line in lines if line.strip().startswith("eth0:"))
        # eight columns of what came in, then those of what went out; bytes are first
        return int(line.partition(":")[2].split()[8])

    def build(self) -> None:
        _remove_abandoned()
        _ip("netns", "add", self._switch)
        self._settle("switch")
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self._switch, "link", "set", "bridge", "up", "mtu", f"{self._mtu}")
        for number, (name, address) in enumerate(self._addresses.items(), start=1):
            host = self.namespace(name)
            _ip("netns", "add", host)
            self._settle(name)
            pair = ["type", "veth", "peer", "name", "eth0", "mtu", f"{self._mtu}", "address", _hardware(number), "netns", host]
            _ip("-n", self._switch, "link", "add", name, "mtu", f"{self._mtu}", *pair)
            _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
            _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")
            for other, their_address in enumerate(self._addresses.values(), start=1):
                if other != number:
                    _ip("-n", host, "neigh", "add", their_address, "lladdr", _hardware(other), "dev", "eth0")
        for name in self._addresses:
            self._await_devices(name)

    def _await_devices(self, name: str) -> None:
        """Wait until the kernel passes frames between the host and the switch: it drops them for a while after `up`.

        A device that was set up has its carrier later, from a thread of the kernel; then it gets a queue, and its bridge
        forwards for it. Devices that are down, as of a host that is cut off, are not waited for.
        """
        cable = {"bridge", name, f"{name}-own", f"{name}-near", f"{name}-far"}
        end = monotonic() + LINK_TIMEOUT_S
        while True:
            devices = [each for each in _devices(self._switch) if each.ifname in cable and "UP" in each.flags]
            if any(each.ifname == name for each in devices):  # the host is plugged in
                devices += [each for each in _devices(self.namespace(name)) if each.ifname == "eth0"]
            waiting = [each.ifname for each in devices if not each.passes_frames]
            if not waiting:
                return
            if monotonic() > end:
                raise RuntimeError(f"the network devices {waiting} of {name} pass no frames after {LINK_TIMEOUT_S:g} s")

    def _settle(self, name: str) -> None:
        """The kernel's own habits on a host: nobody but the hosts' programs puts a frame on a cable."""
        with self.inside(name):
            settings = Path("/proc/sys/net")
            for scope in ("all", "default"):
                # where there is no IPv6, there is nothing to turn off
                with contextlib.suppress(FileNotFoundError):
                    (settings / "ipv6/conf" / scope / "disable_ipv6").write_text("1")
            (settings / "ipv4/tcp_congestion_control").write_text(self._congestion)
            # what a connection learned of a link is not for those after it, whose link may be another
            (settings / "ipv4/tcp_no_metrics_save").write_text("1")

    def remove(self) -> None:
        for name in list(self._links):
            self._close_link(name)
        for name in ("switch", *self._addresses):
            # what was never added cannot be removed
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self.namespace(name))

    @property
    def _switch(self) -> str:
        return self.namespace("switch")

    def namespace(self, name: str) -> str:
        """What `ip netns` calls the host."""
        return f"{self._prefix}-{name}"

    def _close_link(self, name: str) -> None:
        """End the link's process: by closing its standard input, or by a signal if it hangs."""
        link = self._links.pop(name)
        try:
            link.communicate(timeout=LINK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            link.kill()
            link.communicate(timeout=LINK_TIMEOUT_S)


@contextlib.contextmanager
def network(*names: str, mtu: int = 1500, congestion: str = "reno") -> Iterator[Network]:
    """Build a network of hosts, and take it away at the end."""
    made = Network(f"{PREFIX}{os.getpid()}-{next(_numbers)}", names, mtu=mtu, congestion=congestion)
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
    except (OSError, RuntimeError) as error:
        return f"no network namespaces here: {error}"


@cache
def why_no_links() -> str:
    """Why links cannot be shaped here; "" if they can."""
    if reason := why_no_networks():
        return reason
    try:
        with network("probe") as probe:
            probe.shape("probe", rate_mbit=1.0)
            return ""
    except subprocess.CalledProcessError as error:
        return f"no TAP devices here: {error.stderr.strip()}"
    except RuntimeError as error:
        return f"no TAP devices here: {error}"


def end_processes(namespace: str) -> None:
    """Kill all that runs in a namespace."""
    for pid in _ip("netns", "pids", namespace).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _remove_abandoned() -> None:
    """Remove the networks of processes that were killed, with what still runs in them."""
    for namespace in Path("/run/netns").glob(f"{PREFIX}*-*"):
        owner = namespace.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            # another process may be about to do the same
            with contextlib.suppress(subprocess.CalledProcessError):
                end_processes(namespace.name)
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", namespace.name)


def _hardware(number: int) -> str:
    """The Ethernet address of a host. The hosts know one another: a question for it could be the frame that is lost."""
    return f"02:00:00:00:00:{number:02x}"


def _devices(namespace: str) -> list[_Device]:
    return msgspec.json.decode(_ip("-n", namespace, "-json", "-details", "link", "show"), type=list[_Device])


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=LINK_TIMEOUT_S).stdout


def _enter(namespace: int) -> None:
    """Move this thread into the network namespace. `os.setns` came with Python 3.12."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


def _read_line(link: subprocess.Popen[str]) -> str:
    """The next line of the process: it writes one at a time, and only when it is asked. "" once it has ended."""
    assert link.stdout is not None
    readable, _, _ = select.select([link.stdout], [], [], LINK_TIMEOUT_S)
    if not readable:
        raise RuntimeError(f"a link did not answer within {LINK_TIMEOUT_S:g} s")
    return link.stdout.readline()
