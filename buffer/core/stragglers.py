"""Names what a batch waits for: the tickets that it must hold and that are not back, whose they are, and why.

    "batch 17 waits for a10-3: 2 tickets of math/sum, 4.1x slower than foretold; and for 3 tickets of 2 other actors"

The learner must have waited a second; then the leases are looked at once a second, as long as it waits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...common.types import Ticket, TicketKind
from .peers import Peers
from .run_state import RunState

# how long the learner waits before anybody is named, and between two looks
LOOK_S = 1.0
# an actor that would take this many times as long as was foretold is called slow
MUCH = 1.5
# heartbeats that an actor missed when it is called silent
MISSED = 4


@dataclass(frozen=True, slots=True)
class Late:
    """A ticket that a batch waits for."""

    actor: str  # empty: no actor has it
    task: str
    reason: str  # a name in the counters: buffer/stragglers_NAME
    words: str
    factor: float  # for the order: how bad it is


class Stragglers:
    """What the learner waits for now."""

    def __init__(self, run: RunState, peers: Peers) -> None:
        self._run, self._peers = run, peers
        self._since_s: float | None = None
        self._look_at_s = 0.0
        self._late: list[Late] = []
        # empty while the learner does not wait, or for throughput alone
        self.sentence = ""

    def look(self, now: float, heartbeat_s: float) -> None:
        """The learner waits for a batch. `heartbeat_s`: the pause between two heartbeats of an actor now."""
        if self._since_s is None:
            self._since_s, self._look_at_s = now, now + LOOK_S
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_S
        self._late = self._find(now, MISSED * heartbeat_s)
        self.sentence = self._describe(now - self._since_s)

    def end(self) -> None:
        """It does not wait any more: what was named last is counted by reason."""
        for late in self._late:
            self._run.counters.count(f"buffer/stragglers_{late.reason}")
        self._since_s, self._late, self.sentence = None, [], ""

    def _find(self, now: float, silent_s: float) -> list[Late]:
        run, contract = self._run, self._run.store.contract
        until = contract.held_up_until()
        if until is None:
            return []
        late = [
            self._judge(lease.ticket, lease.actor, now, silent_s)
            for lease in run.leases.all()
            if lease.ticket.kind is TicketKind.train and contract.deadline_of(lease.ticket.ordinal) <= until
        ]
        waiting = [one.ticket for one in run.handovers.all() if one.ticket.kind is TicketKind.train]
        late += [
            Late("", _task(ticket), "handed_over", "handed over, and nobody goes on with it", 1e9)
            for ticket in waiting
            if contract.deadline_of(ticket.ordinal) <= until
        ]
        return sorted(late, key=lambda one: -one.factor)

    def _judge(self, ticket: Ticket, actor: str, now: float, silent_s: float) -> Late:
        forecast, peer = self._run.forecast, self._peers.named(actor)
        silence_s = now - peer.seen_s if peer is not None else float("inf")
        if silence_s > silent_s:
            words = "gone" if peer is None else f"silent since {silence_s:.0f} s"
            return Late(actor, _task(ticket), "silent", words, 1e6 + min(silence_s, 1e6))
        expected = forecast.expected(ticket.ordinal)
        if expected is None or expected.back_s is None:
            words = "under way" if expected is None else f"under way for {now - expected.given_s:.0f} s"
            return Late(actor, _task(ticket), "unknown", words, 0.0)
        took_s = now - expected.given_s
        slower = (forecast.back_s(actor, ticket.prompt, ticket.sampling, expected.load) or 0.0) / max(expected.back_s, 1e-9)
        if slower >= MUCH:
            return Late(actor, _task(ticket), "slow", f"{slower:.1f}x slower than foretold", slower)
        longer = took_s / max(expected.back_s, 1e-9)
        if longer >= 1:
            return Late(
                actor, _task(ticket), "long", f"a long answer, {took_s:.0f} s instead of {expected.back_s:.0f} s", longer
            )
        return Late(actor, _task(ticket), "expected", f"foretold in {expected.back_s - took_s:.0f} s", longer)

    def _describe(self, waited_s: float) -> str:
        if not self._late:
            return ""
        first = self._late[0]
        alike = [one for one in self._late if one.actor == first.actor]
        tasks = Counter(one.task for one in alike).most_common(2)
        named = " and ".join(task for task, _ in tasks)
        whose = first.actor or "tickets that were handed over"
        text = (
            f"batch {self._run.store.head} waits {waited_s:.0f} s for {whose}: {_tickets(len(alike))} of {named}, {first.words}"
        )
        others = [one for one in self._late if one.actor != first.actor]
        if not others:
            return text
        num_actors = len({one.actor for one in others})
        return f"{text}; and for {_tickets(len(others))} of {num_actors} other{'s' if num_actors > 1 else ''}"


def _task(ticket: Ticket) -> str:
    return f"{ticket.prompt.domain}/{ticket.prompt.task}"


def _tickets(count: int) -> str:
    return f"{count} ticket{'s' if count != 1 else ''}"
