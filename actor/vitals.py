"""The vitals of an actor or relay: whether it gets on, and its numbers, for the endpoint of its process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..common.monitoring.exposition import Metric, MetricKind, unit_name
from ..common.monitoring.vitals import Vitals

# numbers of a snapshot that may fall; all others are sums since the start
GAUGES = ("in_flight",)
NO_WEIGHTS = "it waits for its first weights"
# that grow while an actor with rollouts in flight gets on
_SIGNS = ("engine_tokens", "generated_tokens", "generated_rollouts", "weights_s", "pull_s")


class ActorVitals:
    """An actor is stuck when rollouts are in flight and none of them gets a token for `limit_s`."""

    def __init__(self, vitals: Vitals, limit_s: float) -> None:
        self._vitals, self._limit_s, self.tracer = vitals, limit_s, vitals.tracer
        self._signs: tuple[float, ...] = ()

    def note(self, numbers: Mapping[str, float], room: int, *, has_weights: bool) -> None:
        """Called with every report. numbers: `ActorStats.snapshot`."""
        signs = tuple(numbers.get(name, 0.0) for name in _SIGNS)
        in_flight = numbers.get("in_flight", 0.0)
        if not in_flight or signs != self._signs:
            state = "generates" if in_flight else "waits for tickets"
            self._vitals.enter(state, limit_s=self._limit_s, hindrance="" if has_weights else NO_WEIGHTS)
        self._signs = signs
        if self._vitals.watched:
            self._vitals.publish(actor_metrics(numbers, room))


class RelayVitals:
    """A relay is stuck when its event loop has not turned for `limit_s`."""

    def __init__(self, vitals: Vitals, limit_s: float) -> None:
        self._vitals, self._limit_s, self.tracer = vitals, limit_s, vitals.tracer

    def note(self, numbers: Mapping[str, float], *, has_weights: bool) -> None:
        """Called with every report. numbers: counts and seconds since the start."""
        self._vitals.enter("serves weights", limit_s=self._limit_s, hindrance="" if has_weights else NO_WEIGHTS)
        if self._vitals.watched:
            self._vitals.publish(_counted("relay", numbers))


def actor_metrics(numbers: Mapping[str, float], room: int) -> Iterator[Metric]:
    """The numbers of an actor."""
    yield Metric("actor_room", float(room), about="rollouts that the engine has use for at once now")
    yield from _counted("actor", numbers)


def _counted(role: str, numbers: Mapping[str, float]) -> Iterator[Metric]:
    """Numbers that have grown since the process started, but for a few."""
    for name, value in numbers.items():
        kind = MetricKind.gauge if name in GAUGES else MetricKind.counter
        yield Metric(f"{role}_{unit_name(name)}", value, kind, about=f"{name} since the process started; docs/metrics.md")
