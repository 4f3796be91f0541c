"""One clock for the processes of several hosts.

Processes of one host (of one boot of it) share the monotonic clock, so only hosts differ. Their wall clocks give a first
offset, as good as NTP is. What caused what gives bounds: a batch is formed after its groups were made, its step begins after
that, the buffer is asked for the next batch after the step began, and weights arrive after they were published. Where the wall
clocks break such a bound, the host is moved by as little as it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .recorded import ProcessTrace

Host = str


@dataclass(frozen=True, slots=True)
class _Order:
    """An event of one host is before one of another: earlier_s + offset of its host <= later_s + offset of its host."""

    earlier: Host
    earlier_s: float
    later: Host
    later_s: float


def host_of(trace: ProcessTrace) -> Host:
    """What shares a monotonic clock."""
    return trace.head.boot or trace.head.host


def clock_offsets(traces: Sequence[ProcessTrace]) -> dict[Host, float]:
    """Seconds to add to each host's monotonic clock, to have that of the buffer's host, or of the first one."""
    by_wall: dict[Host, float] = {}
    first = trace_of_the_clock(traces)
    for trace in traces:
        apart = (trace.head.unix - first.head.unix) - (trace.head.monotonic - first.head.monotonic) if first else 0.0
        by_wall.setdefault(host_of(trace), 0.0 if first and host_of(trace) == host_of(first) else apart)
    # the learner's host is moved to the buffer's first, and the actors' hosts to both
    learners = [host_of(trace) for trace in traces if trace.head.role == "learner"]
    fixed = dict.fromkeys([host_of(first)] if first else [])
    orders = list(_orders(traces))
    for host in dict.fromkeys([*learners, *by_wall]):
        if host not in fixed:
            by_wall[host] += _correction(host, by_wall, set(fixed), orders)
            fixed[host] = None
    return by_wall


def trace_of_the_clock(traces: Sequence[ProcessTrace]) -> ProcessTrace | None:
    """The process whose clock counts: a buffer, or else the first one."""
    return next((trace for trace in traces if trace.head.role == "buffer"), traces[0] if traces else None)


def _correction(host: Host, offsets: dict[Host, float], fixed: set[Host], orders: Sequence[_Order]) -> float:
    """The least change of a host's offset that keeps all orders with the hosts in place; where they contradict, the middle."""
    least, most = float("-inf"), float("inf")
    for order in orders:
        apart = (order.later_s + offsets[order.later]) - (order.earlier_s + offsets[order.earlier])
        if order.earlier == host and order.later in fixed:
            most = min(most, apart)
        elif order.later == host and order.earlier in fixed:
            least = max(least, -apart)
    if least > most:
        return (least + most) / 2
    return min(max(0.0, least), most)


def _orders(traces: Sequence[ProcessTrace]) -> Iterator[_Order]:
    """Every pair of events of two hosts of which one caused the other."""
    groups: dict[int, tuple[Host, float]] = {}
    published: dict[int, tuple[Host, float]] = {}
    for trace in traces:
        host = host_of(trace)
        for span in trace.named("group"):
            if isinstance(ordinal := span.args.get("ordinal"), int):
                groups[ordinal] = (host, span.at + span.s)
        for span in trace.named("step"):
            if isinstance(version := span.args.get("version"), int):
                # the weights of a version are published within its step
                published[version] = (host, span.at)
    yield from _orders_of_batches(traces, groups, published)
    for trace in traces:
        for span in trace.named("weights"):
            version = span.args.get("version")
            if isinstance(version, int) and version in published:
                yield _Order(*published[version], host_of(trace), span.at + span.s)


def _orders_of_batches(
    traces: Sequence[ProcessTrace], groups: dict[int, tuple[Host, float]], steps: dict[int, tuple[Host, float]]
) -> Iterator[_Order]:
    """Groups are before the batch that holds them; the batch is before the step that trains it."""
    for trace in traces:
        host = host_of(trace)
        for span in trace.named("batch"):
            served_s, version = span.at + span.s, span.args.get("version")
            ordinals = span.args.get("ordinals")
            for ordinal in ordinals if isinstance(ordinals, list) else []:
                if int(ordinal) in groups:
                    yield _Order(*groups[int(ordinal)], host, served_s)
            if isinstance(version, int) and version + 1 in steps:
                yield _Order(host, served_s, *steps[version + 1])
            if isinstance(version, int) and version in steps:
                # the buffer has heard the question when that step had begun, and ended
                yield _Order(*steps[version], host, span.at)
