"""The buffer's vitals: what its endpoint tells, made of its status once a second by the thread that owns the core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from ...common.errors import JournalFull
from ...common.messages import Status
from ...common.monitoring.exposition import Metric, MetricKind, unit_name
from ...common.monitoring.vitals import Vitals

EVERY_S = 1.0  # between two looks at the status
STUCK_S = 30.0  # a loop that does not turn for so long is stuck: it usually does twenty times a second
# of an actor in the status -> what its metric says
ACTOR_GAUGES = {
    "leases": "tickets that the actor works on",
    "rollouts": "rollouts of its tickets",
    "room": "rollouts that its engine has use for",
    "lag": "versions that its weights are behind the learner",
    "silence_s": "seconds since its last message",
}
ACTOR_COUNTERS = {
    "generated_tokens": "tokens that it sampled",
    "busy_s": "seconds in which it generated",
    "idle_s": "seconds without work",
    "weights_s": "seconds in which generation was paused for weights",
}


class StatusSource(Protocol):
    """The part of the core that tells its status."""

    def status(self, now: float) -> Status: ...


class BufferVitals:
    """Publishes the state of a core, and that the loop turns."""

    def __init__(self, vitals: Vitals, core: StatusSource) -> None:
        self._vitals, self._core = vitals, core
        self._next_s = float("-inf")

    def note(self, now: float, full: JournalFull | None) -> None:
        """Called whenever the loop turns. `full`: why nothing is acknowledged at present."""
        if now < self._next_s:
            return
        self._next_s = now + EVERY_S
        self._vitals.enter("serves", limit_s=STUCK_S, hindrance="" if full is None else str(full))
        self._vitals.publish(buffer_metrics(self._core.status(now)))


def buffer_metrics(status: Status) -> Iterator[Metric]:
    """The numbers of a status."""
    counter = MetricKind.counter
    for state, count in status.ledger.items():
        if state != "total":
            yield Metric("buffer_tickets", float(count), labels={"state": state}, about="training tickets by state")
    yield Metric("buffer_balanced", float(status.balanced), about="1: the ledger adds up")
    yield Metric("buffer_version", float(status.version), about="policy version of the learner")
    yield Metric("buffer_generation", float(status.generation), about="generation of the run")
    yield Metric("buffer_steps", float(status.steps), about="steps that the run takes, at most")
    yield Metric("buffer_eta", float(status.eta), about="bound on staleness of tickets that are issued now")
    for name, count in status.counters.items():
        yield Metric(unit_name(name), float(count), counter, about=f"{name} since the run began")
    roles = Counter(str(peer.get("role", "")) for peer in status.peers.values())
    for role in ("actor", "learner", "relay"):
        yield Metric("buffer_clients", float(roles[role]), labels={"client": role}, about="connected clients, of 200 at most")
    yield Metric("buffer_clients_connected", float(status.num_peers), about="all connected clients")
    for name, peer in status.peers.items():
        if peer.get("role") != "actor":
            continue
        labels = {"actor": name, "pool": str(peer.get("pool", ""))}
        for kind, table in ((MetricKind.gauge, ACTOR_GAUGES), (counter, ACTOR_COUNTERS)):
            for key, about in table.items():
                if isinstance(value := peer.get(key), int | float):
                    yield Metric(f"buffer_actor_{unit_name(key)}", float(value), kind, labels, about)
