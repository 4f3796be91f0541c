"""The vitals of one process: the state that it is in and since when, and its newest numbers. Any thread may write or read.

A process is alive while it gets on: each state has a limit, after which a process that has neither left it nor entered it
again counts as stuck, so that whoever started it may start it again. It is ready while it can do its work; what it waits for
from others makes it not ready, and never stuck.

Example: vitals.enter("trains the batch of version 7", limit_s=600.0); vitals.publish([Metric("learner_version", 7.0)])
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic

from ..trace import NO_TRACE, Tracer
from .exposition import Metric


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe is told."""

    alive: bool
    ready: bool
    state: str  # what the process does or waits for
    state_s: float  # for how long
    reason: str = ""  # why it is not alive or not ready


@dataclass(slots=True)
class Vitals:
    """Of one process of a run. Nothing here blocks for longer than a copy of a list of numbers."""

    role: str  # buffer, learner, actor, relay, verifier
    name: str  # of the process, unique in the run
    run: str
    watched: bool = False  # whether anybody can ask; else numbers need not be made
    tracer: Tracer = NO_TRACE  # records what the process did and when
    _state: str = "starts"
    _since: float = field(default_factory=monotonic)
    _entered: float = field(default_factory=monotonic)  # the last time, of several
    _limit_s: float = float("inf")
    _hindrance: str = "it starts"  # why it is not ready; empty: it is
    _metrics: list[Metric] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, state: str, *, limit_s: float = float("inf"), hindrance: str = "") -> None:
        """The process is in this state from now on, or gets on in it. `hindrance`: why it cannot do its work; empty: it can."""
        with self._lock:
            if state != self._state:
                self._since = monotonic()
            self._state, self._limit_s, self._hindrance, self._entered = state, limit_s, hindrance, monotonic()

    def publish(self, metrics: Iterable[Metric]) -> None:
        """Replace the numbers that a reader is shown."""
        newest = list(metrics)
        with self._lock:
            self._metrics = newest

    def health(self) -> Health:
        """How the process is now."""
        with self._lock:
            now = monotonic()
            still_s = now - self._entered
            stuck = still_s > self._limit_s
            reason = f"nothing happened for {still_s:.0f} s, at most {self._limit_s:.0f} s were expected" if stuck else ""
            return Health(
                alive=not stuck,
                ready=not stuck and not self._hindrance,
                state=self._state,
                state_s=now - self._since,
                reason=reason or self._hindrance,
            )

    def metrics(self) -> list[Metric]:
        """The newest numbers, and those that every process has."""
        health = self.health()
        own = [
            Metric("up", float(health.alive), about="1: the process gets on; 0: it is stuck, and /healthz says why"),
            Metric("ready", float(health.ready), about="1: the process can do its work; else /readyz says what hinders it"),
            Metric("state_seconds", health.state_s, about="how long the process has been in the state that /healthz names"),
        ]
        with self._lock:
            return own + self._metrics
