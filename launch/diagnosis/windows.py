"""Means over neighbouring steps: rules look at these, because a single step of a metric is mostly noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from ...common.metrics import MetricsRecord

LEAST_WIDTH, MOST_WIDTH = 5, 20  # steps of a window; between them a tenth of the run
LEAST_HOLD = 3  # windows that must show a sign, before a rule speaks of it


@dataclass(frozen=True, slots=True)
class StepWindow:
    """The mean of a metric over some steps."""

    first: int  # step
    last: int
    value: float


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign that several windows showed."""

    step: int  # at which the first of them ended
    last_step: int  # at which the last of them ended
    worst: StepWindow


def windows_of(records: Sequence[MetricsRecord], name: str) -> list[StepWindow]:
    """Means of a metric over windows one after the other; steps without the metric are left out."""
    points = [(int(record["step"]), float(record[name])) for record in records if record.get(name) is not None]
    width = min(max(len(records) // 10, LEAST_WIDTH), MOST_WIDTH)
    whole = [points[start : start + width] for start in range(0, len(points) - width + 1, width)]
    return [StepWindow(part[0][0], part[-1][0], fmean(value for _, value in part)) for part in whole]


def held(windows: Sequence[StepWindow], shows: Callable[[StepWindow], bool], key: Callable[[StepWindow], float]) -> Sign | None:
    """The windows that show a sign, if there are enough of them; the worst has the greatest `key`."""
    showing = [window for window in windows if shows(window)]
    if len(showing) < min(LEAST_HOLD, max(len(windows) - 1, 1)):
        return None
    return Sign(showing[0].last, showing[-1].last, max(showing, key=key))


def noise_of(values: Sequence[float]) -> float:
    """The standard deviation of one value around a slow trend, from the median difference of neighbours."""
    if len(values) < 3:
        return 0.0
    # of two values with deviation s, half of the differences are below .6745 sqrt(2) s
    return median(abs(later - earlier) for earlier, later in pairwise(values)) / 0.9539
