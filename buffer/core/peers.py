"""The connected clients: actors, relays, at most one learner, observers. No two of them have the same name.

There may be ten thousand: what happens for every message or tick looks at the clients that it is about, not at all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice, takewhile

from ...common.messages import PROTOCOL_VERSION, FromBuffer, Hello, Refused, Role, WeightReaders
from ...common.types import PULL
from .actor_speed import speed_metrics
from .pulls import pulls_weights

Outgoing = tuple[bytes, FromBuffer]  # (peer identity, message)
# names of numbers that actors report, in the record of a step
MAX_NUMBERS = 256
NO_READERS = WeightReaders(num_pullers=0, keys=[])


@dataclass(slots=True)
class Received:
    """The weights that a client has received: of its last update, and of all."""

    num_bytes: int = 0
    seconds: float = 0.0
    total_bytes: int = 0
    total_s: float = 0.0
    num_updates: int = 0

    def note(self, num_bytes: int, seconds: float) -> None:
        """Count one update."""
        self.num_bytes, self.seconds = num_bytes, seconds
        self.total_bytes += num_bytes
        self.total_s += seconds
        self.num_updates += 1


@dataclass(slots=True)
class Peer:
    """One connected client."""

    identity: bytes  # of its socket
    hello: Hello
    seen_s: float  # time of its last message
    stats: dict[str, float] = field(default_factory=dict)  # cumulative, of its last heartbeat
    baseline: dict[str, float] = field(default_factory=dict)  # `stats` at the last batch
    facts: dict[str, float | str] = field(default_factory=dict)  # that it reported of itself, for the status
    leaving: bool = False  # an actor that takes no more tickets, a relay that serves no more weights
    weights: Received = field(default_factory=Received)
    readers: WeightReaders = NO_READERS  # the last that it was told of
    in_flight_cap: int | None = None  # of an actor: the `room` of its last heartbeat that told one

    @property
    def name(self) -> str:
        return self.hello.name

    @property
    def role(self) -> Role:
        return self.hello.role

    @property
    def room(self) -> int:
        """Rollouts that an actor works on at once now: what it reported last, at most its capacity; without a report that.

        An actor without work takes a ticket of more rollouts too.
        """
        cap = self.in_flight_cap
        return self.hello.capacity if cap is None else min(cap, self.hello.capacity)

    def is_process(self, hello: Hello) -> bool:
        """Whether this greeting comes from the very same process.

        An actor or relay that holds no weights is another one, even if a container gave it the same process id.
        """
        if hello.role in (Role.actor, Role.relay) and hello.version < 0:
            return False
        return (self.hello.role, self.hello.host, self.hello.pid) == (hello.role, hello.host, hello.pid)

    def start_leaving(self) -> None:
        """An actor takes no more tickets, and finishes what it has; a relay serves nobody any more."""
        self.leaving = True

    def heard_stats(self, stats: dict[str, float]) -> None:
        """Keep the numbers of a heartbeat; one without numbers changes nothing."""
        if stats:
            self.stats = stats

    def heard_room(self, room: int | None) -> None:
        """Keep an actor's room; a heartbeat without it changes nothing."""
        if room is not None:
            self.in_flight_cap = room

    def stats_since_batch(self) -> dict[str, float]:
        """The growth of its numbers since the last call; a number that shrank has started from 0 again."""
        grown = {key: value - self.baseline.get(key, 0.0) for key, value in self.stats.items()}
        grown = {key: self.stats[key] if change < 0 else change for key, change in grown.items()}
        self.baseline = dict(self.stats)
        return grown


class Peers:
    """The connected clients, by name and by socket identity."""

    def __init__(self) -> None:
        self._by_name: dict[str, Peer] = {}
        self._by_identity: dict[bytes, Peer] = {}
        self._actors: dict[str, Peer] = {}
        # by the time of their last message, the longest silent first
        self._by_silence: OrderedDict[str, Peer] = OrderedDict()
        self.learner: Peer | None = None

    def find(self, identity: bytes) -> Peer | None:
        """The client that greeted from this socket."""
        return self._by_identity.get(identity)

    def named(self, name: str) -> Peer | None:
        """The client of this name."""
        return self._by_name.get(name)

    def all(self) -> list[Peer]:
        """Every client, in order of joining."""
        return list(self._by_name.values())

    def actors(self) -> list[Peer]:
        """The actors, in order of joining."""
        return list(self._actors.values())

    @property
    def num_peers(self) -> int:
        return len(self._by_name)

    @property
    def num_actors(self) -> int:
        return len(self._actors)

    def receivers(self) -> list[Peer]:
        """The clients that weights are sent to, in order of joining: actors and relays."""
        return [peer for peer in self._by_name.values() if peer.role in (Role.actor, Role.relay)]

    def workers(self) -> list[Peer]:
        """The actors that take tickets."""
        return [actor for actor in self._actors.values() if not actor.leaving]

    def join(self, identity: bytes, hello: Hello, now: float) -> Peer:
        """Enter a client. One of the same name must have left before, or be the same process on another socket."""
        previous = self._by_name.get(hello.name)
        facts: dict[str, float | str] = {"host": hello.host, "pid": float(hello.pid)}
        peer = Peer(identity=identity, hello=hello, seen_s=now, facts=facts)
        if previous is not None:
            peer.stats, peer.baseline, peer.weights = previous.stats, previous.baseline, previous.weights
            peer.facts, peer.leaving = previous.facts | facts, previous.leaving
            peer.in_flight_cap = previous.in_flight_cap
            del self._by_identity[previous.identity]
        assert identity not in self._by_identity, "a socket that speaks for another client must have left first"
        self._by_name[hello.name] = self._by_silence[hello.name] = peer
        self._by_silence.move_to_end(hello.name)
        if peer.role is Role.actor:
            self._actors[hello.name] = peer
        if peer.role is Role.learner:
            self.learner = peer
        self._by_identity[identity] = peer
        return peer

    def leave(self, peer: Peer) -> None:
        """Forget a client."""
        del self._by_name[peer.name]
        del self._by_identity[peer.identity]
        del self._by_silence[peer.name]
        self._actors.pop(peer.name, None)
        if peer is self.learner:
            self.learner = None

    def actor_metrics(self) -> dict[str, float]:
        """The growth of the actors' numbers since the last call, summed over actors: "actor/NAME"; and their speed: "perf/"."""
        metrics = {"actor/num_actors": float(self.num_actors), "actor/room": float(sum(a.room for a in self._actors.values()))}
        num_left_out = 0
        since_batch = {name: actor.stats_since_batch() for name, actor in self._actors.items()}
        for numbers in since_batch.values():
            for key, grown in numbers.items():
                name = key if key.startswith("actor/") else f"actor/{key}"
                if name in metrics or len(metrics) < MAX_NUMBERS:
                    metrics[name] = metrics.get(name, 0.0) + grown
                else:
                    num_left_out += 1
        metrics |= {"actor/numbers_left_out": float(num_left_out)} if num_left_out else {}
        pools = {name: actor.hello.pool for name, actor in self._actors.items() if actor.hello.pool}
        return metrics | speed_metrics(since_batch, pools)

    def heard(self, peer: Peer, now: float) -> None:
        """A message of a client came; `now` is never less than before."""
        peer.seen_s = now
        self._by_silence.move_to_end(peer.name)

    def silent(self, now: float, limit_s: float) -> list[Peer]:
        """Clients that have said nothing for longer than `limit_s`, the longest silent first."""
        return list(takewhile(lambda peer: now - peer.seen_s > limit_s, self._by_silence.values()))

    def longest_silent(self, count: int) -> list[Peer]:
        """The clients whose last word is the oldest."""
        return list(islice(self._by_silence.values(), count))

    def all_silent(self, now: float, limit_s: float) -> bool:
        """Whether no client has said anything for `limit_s`."""
        last = next(reversed(self._by_silence.values()), None)
        return last is None or now - last.seen_s > limit_s


def refuse_hello(hello: Hello, peers: Peers, tokenizer: str, num_stages: int) -> Refused | None:
    """The reason why a client is not let in; None for one that is."""
    if hello.protocol != PROTOCOL_VERSION:
        return Refused(
            reason=f"{hello.name} on {hello.host} speaks protocol {hello.protocol}, the buffer speaks {PROTOCOL_VERSION}; "
            "install the same version of prolong on both"
        )
    if hello.role is Role.observer:
        return None
    # a relay has no tokenizer
    if hello.role is not Role.relay and hello.tokenizer != tokenizer:
        return Refused(
            reason=f"{hello.name} on {hello.host} has tokenizer {hello.tokenizer}, the buffer has {tokenizer}; "
            "start both with the same model.path"
        )
    if hello.role is Role.learner and not 0 <= hello.stage < num_stages:
        return Refused(
            reason=f"{hello.name} on {hello.host} is in stage {hello.stage}, the buffer's run has {num_stages} "
            "(counted from 0); start both with the same stages"
        )
    if hello.role is Role.relay and hello.serves is None:
        return Refused(reason=f"{hello.name} on {hello.host} is a relay that does not say where it serves: set weights.host")
    namesake, learner = peers.named(hello.name), peers.learner
    if hello.role is Role.actor and learner is not None and learner.hello.transport == PULL and not pulls_weights(hello):
        return Refused(reason=never_published(hello))
    if namesake is not None and namesake.role is not hello.role:
        return Refused(reason=f"the name {hello.name} is taken by a living {namesake.role}; choose another", retry=True)
    if hello.role is Role.learner and learner is not None and not (learner.name == hello.name and learner.is_process(hello)):
        return Refused(
            reason=f"learner {learner.name} (pid {learner.hello.pid} on {learner.hello.host}) is alive; "
            "there can be only one: stop it first",
            retry=True,
        )
    return None


def never_published(hello: Hello) -> str:
    """What an actor is told that waits for broadcasts of a learner that makes none."""
    return (
        f"{hello.name} on {hello.host} waits for broadcasts (weights.transport={hello.transport}), which this learner does not "
        f"make (weights.transport={PULL}): start the actor with weights.transport={PULL}, or the learner with collective"
    )
