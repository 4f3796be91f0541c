"""A sweep as a picture: steps per second below their bound, and how stale the groups are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .sweep import SweepPoint


def draw_sweep(key: str, points: Sequence[SweepPoint], path: Path) -> None:
    """Write the picture. matplotlib is a dependency of development."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = [point.value for point in points]
    found = [point.planned.found for point in points]
    figure, (speed, age) = pyplot.subplots(2, 1, figsize=(8, 6.5), dpi=110, sharex=True, height_ratios=(3, 2))
    speed.plot(values, [each.steps_per_s for each in found], "o-", color="C0", label="simulated")
    speed.plot(values, [point.planned.roofs.bound for point in points], "--", color="grey", label="bound (closed form)")
    speed.set(ylabel="steps per second", ylim=(0, None))
    speed.legend(loc="lower right")
    busy = speed.twinx()
    busy.plot(values, [100 * each.learner_busy for each in found], ":", color="C2", label="learner")
    busy.plot(values, [100 * each.actors_busy for each in found], ":", color="C1", label="actors")
    busy.set(ylabel="busy, %", ylim=(0, 105))
    busy.legend(loc="center right")
    age.plot(values, [each.staleness_mean for each in found], "o-", color="C3", label="mean")
    age.plot(values, [max(each.staleness, default=0) for each in found], "--", color="C3", alpha=0.5, label="largest")
    age.set(xlabel=key, ylabel="staleness, versions", ylim=(0, None))
    age.legend(loc="upper left")
    for axes in (speed, age):
        axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
