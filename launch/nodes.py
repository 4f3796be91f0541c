"""The nodes that the learner's ranks run on: named on the command line, or read from Slurm's environment.

Every node runs the same `prolong learner`; torchrun's c10d rendezvous brings them together. Node 0 holds the rendezvous, and
rank 0 of the learner: so it is the node that talks to the buffer.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from ..common.errors import ProlongError, UserError

RETRY_S = 0.5
# of the ports for Slurm jobs; each job has one of its own by its number
FIRST_PORT, NUM_PORTS = 20_000, 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """This node's place among `count` nodes, and where they meet. A single node needs no rendezvous."""

    count: int = 1
    index: int = 0
    host: str = ""  # an address of node 0
    port: int = 0

    @property
    def rendezvous(self) -> str:
        return f"{self.host}:{self.port}"


def nodes_by_hand(count: int, index: int, rendezvous: str) -> Nodes:
    """The nodes of `--nodes`, `--node-rank` and `--rendezvous`. Raises: UserError."""
    if count < 1:
        raise UserError(f"--nodes {count}: expected the number of nodes, with --node-rank and --rendezvous of each")
    if not 0 <= index < count:
        raise UserError(f"--node-rank {index}: expected 0 to {count - 1}, another one on each of the {count} nodes")
    if count == 1:
        return Nodes()
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise UserError(
            f"--rendezvous {rendezvous!r}: expected HOST:PORT, an address of node 0 and a free port, the same on all nodes"
        )
    return Nodes(count=count, index=index, host=host.strip("[]"), port=int(port))


def nodes_of_slurm(environ: Mapping[str, str]) -> Nodes:
    """The nodes of the step that `srun` started, one task on each; a single node outside of Slurm. Raises: UserError."""
    count = int(environ.get("SLURM_STEP_NUM_NODES", "1"))
    if count == 1:
        return Nodes()
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", str(count)))
    if tasks != count:
        raise UserError(
            f"srun started {tasks} tasks on {count} nodes: expected one on each, which starts launch.learner_ranks ranks "
            "itself; give srun --ntasks-per-node=1"
        )
    host = first_host(environ["SLURM_STEP_NODELIST"])
    port = FIRST_PORT + int(environ["SLURM_JOB_ID"]) % NUM_PORTS
    return Nodes(count=count, index=int(environ["SLURM_NODEID"]), host=host, port=port)


def first_host(nodelist: str) -> str:
    """The first host of Slurm's short form: gpu[03-05,9],login -> gpu03."""
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodelist)[0])


def address_towards(nodes: Nodes) -> str:
    """This node's address on the network that leads to node 0. Raises: UserError for a host that is not known."""
    try:
        family, _, _, _, target = socket.getaddrinfo(nodes.host, nodes.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # nothing is sent: the kernel only chooses the way
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(f"rendezvous at {nodes.rendezvous}: no way from here to {nodes.host} ({error})") from error


def interface_of(address: str) -> str:
    """The network interface that has `address`; "" if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return ""


def wait_for_node_0(nodes: Nodes, timeout_s: float) -> None:
    """Return once node 0 listens at the rendezvous. Raises: ProlongError when it does not within `timeout_s`."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while True:
        with contextlib.suppress(OSError), socket.create_connection((nodes.host, nodes.port), timeout=5.0):
            return
        if time.monotonic() > deadline:
            raise ProlongError(
                f"node 0 does not answer at {nodes.rendezvous} for {timeout_s:g} s: was its `prolong learner` started, with "
                "--node-rank 0 and the same --rendezvous, and may this node reach that port?"
            )
        pause.wait(RETRY_S)


def check_node_0(nodes: Nodes, address: str) -> None:
    """Raise UserError unless the rendezvous is on this node, which is node 0, and its port is free."""
    try:
        with socket.create_server((nodes.host, nodes.port), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            pass
    except OSError as error:
        raise UserError(
            f"rendezvous at {nodes.rendezvous}: node 0 cannot listen there ({error}); give an address of node 0 and a free port"
        ) from error
