"""A run on several hosts whose actors pull their weights, with keys everywhere."""

from __future__ import annotations

import socket
import subprocess
from collections import Counter
from pathlib import Path

from prolong.bench.networks import Network
from prolong.buffer.client.observer import request_status
from prolong.buffer.journal.journal import read_journal
from prolong.common.errors import BufferUnreachable
from prolong.common.messages import Status
from prolong.common.transport.keys import make_keys

from tests.support.runs import SMALL, Run

BUFFER_PORT, WEIGHTS_PORT = 5710, 5711
ESTABLISHED = "01"  # a state in /proc/net/tcp


class FarRun:
    """The run as seen from each host, whose disk is a folder. `home` has the buffer and the learner."""

    def __init__(self, folder: Path, model: Path, hosts: Network, *settings: str) -> None:
        self.hosts, self.keys = hosts, folder / "keys"
        make_keys(self.keys, hosts.names)
        self.address = f"tcp://{hosts.address('home')}:{BUFFER_PORT}"
        shared = [*SMALL, f"model.path={model}", f"data.train=[{{file: {model}/train.jsonl}}]", "data.heldout=[]"]
        shared += [f"buffer.address={self.address}", "buffer.keep_history=true", "run.steps=100000"]
        shared += ["weights.transport=pull", f"weights.port={WEIGHTS_PORT}", *settings]
        self.runs: dict[str, Run] = {}
        for name in hosts.names:
            (folder / name).mkdir()
            own = [f"buffer.keys={self.keys}/hosts/{name}", f"weights.host={hosts.address(name)}"]
            self.runs[name] = Run(folder / name, "far", [*shared, *own])
        self.home = self.runs["home"]

    def start(self, host: str, command: str, *arguments: str) -> subprocess.Popen:
        return self.runs[host].start(command, *arguments, within=self.hosts.within(host))

    def start_home(self) -> None:
        """Buffer and learner."""
        self.start("home", "buffer", f"buffer.keys={self.keys}")
        self.start("home", "learner")

    def status(self) -> Status | None:
        """None while there is no buffer."""
        with self.hosts.inside("home"):
            try:
                return request_status(self.address, 5.0, keys=f"{self.keys}/hosts/home")
            except BufferUnreachable:
                return None

    def fact(self, peer: str, name: str) -> float:
        """A number that the buffer's status has about a client; -1 if there is none."""
        status = self.status()
        value = status.peers.get(peer, {}).get(name, -1.0) if status is not None else -1.0
        return value if isinstance(value, float) else -1.0

    def version(self) -> int:
        """Of the learner."""
        status = self.status()
        return status.version if status is not None else -1

    def trained_groups(self) -> Counter[str]:
        """How many of the groups that were trained each actor made."""
        journal = read_journal(self.home.folder / "journal")
        batches = [journal.batch(version) for version in journal.versions()]
        journal.close()
        return Counter(group.actor for batch in batches if batch is not None for group in batch.groups)

    def output(self) -> str:
        return "\n".join(run.output() for run in self.runs.values())

    def kill_all(self) -> None:
        for run in self.runs.values():
            run.kill_all()


def connections_of(hosts: Network, name: str) -> set[tuple[str, int]]:
    """The other ends (address, port) of the TCP connections that a host has to other hosts."""
    with hosts.inside(name):
        lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    found: set[tuple[str, int]] = set()
    for line in lines:
        _, _, remote, state, *_ = line.split()
        address, port = remote.split(":")
        # the kernel writes addresses as numbers of this machine, which is little-endian
        host = socket.inet_ntoa(bytes.fromhex(address)[::-1])
        if state == ESTABLISHED and not host.startswith("127."):
            found.add((host, int(port, 16)))
    return found
