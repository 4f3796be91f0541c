"""A seeded world around the shipped buffer and the shipped client sessions, in virtual time.

    Actor, Learner --Session--> Link --> Buffer (OutputCommit, BufferCore, Journal) --> FaultyDisk

One seed is one schedule (plan.py) with its faults (faults.py). The judge (judge.py) checks the buffer's promises from outside.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from prolong.buffer.core.core import BufferCore
from prolong.common import messages as m
from prolong.common.transport.wire import encode

from .actor import Actor
from .audit import Stuck
from .client import Client
from .disk import FaultyDisk
from .faults import HARSH, Fault, Kind
from .host import Buffer
from .judge import Judge
from .learner import Learner
from .network import Lane
from .plan import Plan
from .process import Process
from .pulling import WeightsServer
from .relay import Relay

RESTART_S = 3.0  # of a buffer, mean


class World:
    """Processes, network, disk, and the events to come."""

    def __init__(
        self, plan: Plan, core_class: type[BufferCore] = BufferCore, *, starts: Mapping[str, float] | None = None
    ) -> None:
        """`starts`: virtual seconds until "buffer", "learner" and "actors" start; without it all start at once."""
        self.plan, self.rng, self.now = plan, random.Random(plan.seed * 7919 + 1), 0.0
        self.cfg, self.core_class = plan.config(), core_class
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.num_events = self._num_scheduled = 0
        self.faults = deque(plan.faults)
        self.struck: Counter[Kind] = Counter()
        self.deaths: Counter[str] = Counter()  # by process, and by the place where it died
        self.buffer_crashes = self.learner_restarts = self.forks = 0
        self.learner_finds = ""  # checkpoint of its next start: "newest", "older", "none"
        self.unreachable: dict[str, float] = {}  # client -> end of its partition
        self.over = False
        self._trace = hashlib.blake2b(digest_size=16)
        self.judge = Judge(plan)
        self.disk = FaultyDisk(self.judge.committed, plan.seed)
        self.clients: dict[bytes, Client] = {}
        self.buffer: Buffer | None = None
        self.core: BufferCore  # of the last buffer
        self.learner: Learner | None = None
        self.actors: dict[str, Actor] = {}
        self.relays: dict[str, Relay] = {}
        self.pulled: Counter[str] = Counter()  # what happened to pulls
        for name, start in (("buffer", self.start_buffer), ("learner", self.start_learner), ("actors", self.start_actors)):
            if starts is None:
                start()
            else:
                self.at(starts[name], start)

    # --- time and chance --------------------------------------------------------------------------

    def at(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        self._num_scheduled += 1
        heapq.heappush(self.events, (self.now + delay_s, self._num_scheduled, action, args))

    def soon(self, mean_s: float) -> float:
        return mean_s * (0.2 + 1.6 * self.rng.random())

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def trace(self, frame: bytes) -> None:
        """Add to the trace of the run; two runs of a seed leave the same one."""
        self._trace.update(frame)

    @property
    def trace_hash(self) -> str:
        return f"{self.num_events} events {self._trace.hexdigest()}"

    def run(self) -> None:
        """Run until the learner has heard Finished. Raises Stuck and other Violations."""
        plan, events = self.plan, self.events
        while not self.over:
            if not events or self.num_events > plan.max_events or self.now > plan.horizon_s:
                status = self.core.status(0.0)
                raise Stuck(f"stuck at {self.now:.0f} s after {self.num_events} events: {status}")
            self.now, _, action, args = heapq.heappop(events)
            self.num_events += 1
            self.trace(b"%.9f" % self.now)
            while self.faults and self.faults[0].event <= self.num_events:
                self.strike(self.faults.popleft())
            action(*args)
        self.judge.end(untroubled=not self.forks)

    # --- faults -----------------------------------------------------------------------------------

    def strike(self, fault: Fault) -> None:
        """Let a fault happen; one that finds no victim is not counted."""
        victim = self.buffer if fault.victim == "buffer" else self.find(fault.victim)
        if fault.kind in (Kind.full, Kind.broken):
            struck = self.strike_disk(fault)
        elif victim is None or not victim.alive:
            struck = False
        elif fault.kind in HARSH or fault.kind in (Kind.sever, Kind.cut):
            struck = isinstance(victim, Client) and self.strike_link(fault, victim)
        else:
            struck = self.strike_process(fault, victim)
        self.struck[fault.kind] += struck

    def find(self, name: str) -> Client | None:
        return self.learner if name == "learner" else self.actors.get(name) or self.relays.get(name)

    def server_at(self, endpoint: str) -> WeightsServer | None:
        """The living process that weights can be pulled from there."""
        name, _, life = endpoint.removeprefix("tcp://").partition(":")
        found = self.find(name)
        if not isinstance(found, Learner | Actor | Relay) or not found.alive or found.life != int(life):
            return None
        return Silent() if found.paused else found

    def strike_process(self, fault: Fault, victim: Process) -> bool:
        if victim.paused:
            return False
        if fault.kind is Kind.pause:
            victim.pause(fault.seconds)
        elif fault.kind is Kind.leave and isinstance(victim, Actor | Relay):
            victim.leave()
        elif isinstance(victim, Buffer):
            self.doom_buffer(victim, fault.how)
        elif isinstance(victim, Client):
            self.learner_finds = fault.how or self.learner_finds
            self.deaths[f"{victim.role} {fault.how}".strip()] += 1
            victim.die()
        return True

    def doom_buffer(self, buffer: Buffer, how: str) -> None:
        self.deaths[f"buffer {how}"] += 1
        if how == "idle":
            self.kill_buffer()
        elif how in ("torn", "written"):
            self.disk.doom = how
        else:
            buffer.doom = how

    def strike_disk(self, fault: Fault) -> bool:
        if self.buffer is None or self.disk.is_full or self.disk.doom:
            return False
        if fault.kind is Kind.broken:
            self.disk.doom = fault.how
        else:
            self.disk.is_full = True
            self.at(fault.seconds, self.free_disk)
        return True

    def free_disk(self) -> None:
        self.disk.is_full = False

    def strike_link(self, fault: Fault, client: Client) -> bool:
        link = client.link
        if link is None or not link.up:
            return False
        if fault.kind is Kind.sever:
            client.sever()
        elif fault.kind is Kind.cut:
            until_s = self.unreachable[client.name] = self.now + fault.seconds
            link.block(until_s)
            if fault.how == "breaks":
                self.at(fault.seconds, lambda: client.sever() if client.link is link else None)
        else:
            lanes: list[Lane] = [link.to_buffer, link.to_client]
            self.rng.shuffle(lanes)
            return any(lane.disturb(fault.kind) for lane in lanes)
        return True

    def kill_buffer(self, *, linger: bool = False) -> None:
        """Kill the buffer, with everything that it did not commit. `linger`: its last messages still arrive."""
        assert self.buffer is not None
        self.buffer.die()
        self.buffer = None
        self.buffer_crashes += 1
        for client in list(self.clients.values()):
            if client.link is not None and linger:
                client.link.to_client.blocked_until_s = 0.0
                self.linger(client)
            client.sever()
        self.at(self.soon(RESTART_S), self.start_buffer)

    def linger(self, client: Client) -> None:
        """Messages under way to a client arrive, although the connection breaks."""
        assert client.link is not None
        for message in list(client.link.to_client.queue):
            client.run(client.hear, message)

    def start_buffer(self) -> None:
        self.buffer = Buffer(self)
        self.core = self.buffer.core

    def start_learner(self) -> None:
        self.learner = Learner(self, 0, [])

    def start_actors(self) -> None:
        for index in range(self.plan.actors):
            name = f"actor-{index}"
            self.actors[name] = Actor(self, name, 0)
        for index in range(self.plan.relays):
            name = f"relay-{index}"
            self.relays[name] = Relay(self, name, 0)

    def request_reset(self) -> None:
        """A user runs `prolong reset`."""
        if self.buffer is not None:
            self.buffer.hear(b"cli", encode(m.RequestReset()))


class Silent:
    """A server that is stopped: connections to it stand, and nothing comes."""

    def snapshot(self) -> None:
        return None
