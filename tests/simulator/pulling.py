"""Weights that simulated processes pull: slow links that stall and break, servers that come and go, one pull at a time.

Bytes have no content here: a catalog names the learner's process and the version, and a pull takes the time that its link needs
for the versions in between, or for a full copy. Chunks, deltas and digests have tests of their own, with the shipped code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec
from prolong.common import messages as m
from prolong.common.types import PullAddress, WeightSource

from .client import Client

if TYPE_CHECKING:
    from .world import World

PARKED_S = 15.0  # how long a puller waits for a server that has not got the version yet, or is silent
POLL_S = 0.25  # stands for the moment at which a server answers what it could not answer before
FULL = 5.0  # times what the changes of one version take


@dataclass(frozen=True)
class Snapshot:
    """One version as one process of the learner made it."""

    session: int  # number of that process
    version: int

    @property
    def catalog(self) -> bytes:
        return hashlib.sha256(f"{self.session} {self.version}".encode()).digest()

    @property
    def checksums(self) -> list[int]:
        return [int.from_bytes(self.catalog[:4])]


class WeightsServer(Protocol):
    """A process that others pull from."""

    def snapshot(self) -> Snapshot | None:
        """The newest version that it has."""
        ...


class Link:
    """The link of one puller: it knows how long things take, and when nothing passes."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name, self._dead_until_s = world, name, 0.0

    def seconds(self, held: Snapshot | None, target: Snapshot) -> float:
        """How long `target` takes for a process that holds `held`."""
        versions = FULL
        if held is not None and held.session == target.session and 0 <= target.version - held.version < FULL:
            versions = target.version - held.version
        return self._world.plan.link_s.get(self._name, 0.0) * max(versions, 0.05)

    def is_dead(self) -> bool:
        """Whether nothing passes now; it may begin now."""
        world = self._world
        if world.chance(world.plan.stalls):
            self._dead_until_s = world.now + world.soon(30.0)
            world.pulled["stalled"] += 1
        return world.now < self._dead_until_s


def source_of(client: Client) -> WeightSource:
    """Where others pull from this process."""
    return WeightSource(endpoint=f"tcp://{client.name}:{client.life}")


class Pull:
    """One pull under way."""

    def __init__(self, update: m.UpdateWeights) -> None:
        self.update = update
        self.address = msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress)
        self.left_s: float | None = None  # of the transfer; None before the target is known
        self.place = 0  # of the source that it asks
        self.waited_s = 0.0  # for that source
        self.is_loading = False


class Pulling:
    """The pulls of one process. It behaves as actor/updates.py does."""

    def __init__(self, client: Client, ended: Callable[[m.UpdateWeights, Snapshot | None], None], load_s: float = 0.0) -> None:
        """`ended` is called when what a pull brought is loaded, in `load_s` in the mean, or with None after an error."""
        self.held: Snapshot | None = None
        self._client, self._ended, self._load_s = client, ended, load_s
        self._link = Link(client.world, client.name)
        # of a learner's process: the seconds of transfer that a pull cut off had behind it; the next one has less to do
        self._kept = (-1, 0.0)
        self._pull: Pull | None = None
        self._next: m.UpdateWeights | None = None

    def offer(self, update: m.UpdateWeights) -> None:
        """The buffer names a version: it is pulled now, or after the one under way."""
        self._next, pull = update, self._pull
        if pull is None:
            self._begin()
            return
        if pull.is_loading:
            return
        address = msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress)
        older = update.version <= pull.update.version and address.catalog != pull.address.catalog
        if address.sources != pull.address.sources or older or update.generation != pull.update.generation:
            self._end(None)  # it may wait in vain

    def _begin(self) -> None:
        if self._next is None:
            return
        pull = self._pull = Pull(self._next)
        self._next = None
        self._client.later(0.01, self._step, pull)

    def _step(self, pull: Pull) -> None:
        """Fetch for a while from the present source, wait for it, or go to the next."""
        if pull is not self._pull:
            return
        client, world = self._client, self._client.world
        if world.chance(world.plan.broken_pulls):
            world.pulled["broken"] += 1
            self._end(None)
            return
        server = world.server_at(pull.address.sources[pull.place].endpoint)
        snapshot = None if server is None or self._link.is_dead() else server.snapshot()
        if snapshot is not None and snapshot.catalog == pull.address.catalog:
            self._fetch(pull, snapshot)
        elif snapshot is not None and snapshot.version > pull.update.version:
            self._go_on_without(pull, superseded=True)
        elif server is not None and pull.waited_s < PARKED_S:
            pull.waited_s += POLL_S
            client.later(POLL_S, self._step, pull)
        else:
            self._go_on_without(pull, superseded=False)

    def _go_on_without(self, pull: Pull, *, superseded: bool) -> None:
        """The present source does not give this version: ask the next one. The learner, the last one, has the last word."""
        world = self._client.world
        if pull.place + 1 < len(pull.address.sources):
            pull.place, pull.waited_s = pull.place + 1, 0.0
            world.pulled["went to the next source"] += 1
            self._client.later(0.1, self._step, pull)
        elif superseded:
            # nothing is said of it: a newer offer is on its way
            world.pulled["superseded"] += 1
            self._pull = None
            self._begin()
        else:
            self._end(None)

    def _fetch(self, pull: Pull, snapshot: Snapshot) -> None:
        if pull.left_s is None:
            session, kept_s = self._kept
            kept_s = kept_s if session == snapshot.session else 0.0
            pull.left_s = max(self._link.seconds(self.held, snapshot) - kept_s, 0.0)
            self._kept = snapshot.session, kept_s
        elif pull.left_s <= 0:
            self.held = snapshot
            self._client.world.pulled["through a server"] += len(pull.address.sources) > pull.place + 1
            pull.is_loading, self._kept = True, (snapshot.session, 0.0)
            self._client.later(self._client.world.soon(self._load_s), self._end, snapshot)
            return
        portion_s = max(min(pull.left_s, 2.0), 0.02)
        pull.left_s -= portion_s
        self._kept = snapshot.session, self._kept[1] + portion_s
        self._client.later(portion_s, self._step, pull)

    def _end(self, snapshot: Snapshot | None) -> None:
        assert self._pull is not None
        update, self._pull = self._pull.update, None
        self._client.world.pulled["failed" if snapshot is None else "done"] += 1
        self._ended(update, snapshot)
        self._begin()


def pulled_answer(update: m.UpdateWeights, checksums: list[int], error: str = "") -> m.WeightsApplied:
    return m.WeightsApplied(
        generation=update.generation,
        version=update.version,
        epoch=-1,
        checksums=checksums,
        seconds=0.1,
        error=error,
        num_bytes=0 if error else 1000,
        pull_s=0.5,
        catalog=msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress).catalog,
    )
