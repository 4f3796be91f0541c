"""Lanes: spans that overlap lie side by side, each in the first lane that is free; those of one lane never overlap."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence


def assign_lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """The lane of every span (begin, end), counted from 0: the lowest that is free when it begins."""
    lanes = [0] * len(spans)
    free: list[int] = []
    taken: list[tuple[float, int]] = []  # (end of its last span, lane)
    num_lanes = 0
    for index in sorted(range(len(spans)), key=lambda i: spans[i]):
        began, ended = spans[index]
        while taken and taken[0][0] <= began:
            heapq.heappush(free, heapq.heappop(taken)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, num_lanes = num_lanes, num_lanes + 1
        lanes[index] = lane
        heapq.heappush(taken, (ended, lane))
    return lanes


def gaps_between(spans: Iterable[tuple[float, float]], shortest: float) -> list[tuple[float, float]]:
    """The times of at least `shortest` without any of the spans, between the first and the last of them."""
    gaps: list[tuple[float, float]] = []
    reached: float | None = None
    for began, ended in sorted(spans):
        if reached is not None and began - reached >= shortest:
            gaps.append((reached, began))
        reached = ended if reached is None else max(reached, ended)
    return gaps
