"""Whether the data are further from the policy than eta = 0 would let them be: a warning with the numbers of the run.

The distance of a token is the log-ratio of the policy that it trains and the one that sampled it (policy/log_ratio_m2 is its
mean square). It grows with every update in between, so with eta x mini-batches, and with the size of an update, so with the
learning rate. At eta = 0 the clip of the loss bounds it: a token beyond the clip is pushed no further. A run whose tokens are
beyond it in the root mean square already when they come asks more of its data than a synchronous run ever would.

Nothing here is of one model: distance and lag are measured, the bound is a setting of the run.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import fmean, median

from ..common.config.algorithm import ObjectiveConfig
from ..common.config.choices import Loss

# steps that a warning looks at
WINDOW = 8
_USED = ("policy/log_ratio_m2", "policy/lag_mean", "policy/ess", "learner/lr")


def tolerated_distance(cfg: ObjectiveConfig) -> float:
    """The distance, in nats, up to which the loss pushes a token: its clip, or else the bound of a second moment."""
    return -math.log(1 - cfg.clip_low) if cfg.loss is Loss.clip else math.sqrt(cfg.second_moment)


class DriftWatch:
    """Looks at the metrics of every step; says once what is too far, and what would bring it back.

    Example: watch = DriftWatch(eta=8, minibatches=1); then, after each step: text = watch.note(metrics, cfg.objective)
    """

    def __init__(self, *, eta: int, minibatches: int) -> None:
        """`eta`: the largest that there may be."""
        self._eta, self._minibatches = eta, minibatches
        self._recent: deque[tuple[float, ...]] = deque(maxlen=WINDOW)
        self._has_warned = False

    def note(self, metrics: Mapping[str, float | None], objective: ObjectiveConfig) -> str:
        """Take the metrics of one step; the warning if this is the step that calls for it, else an empty text.

        `objective`: that of the present stage.
        """
        numbers = tuple(metrics.get(name) for name in _USED)
        if self._has_warned or any(number is None or not math.isfinite(number) for number in numbers):
            return ""
        self._recent.append(tuple(number for number in numbers if number is not None))
        if len(self._recent) < WINDOW:
            return ""
        squares, lags, sizes, rates = zip(*self._recent, strict=True)
        distance, lag = math.sqrt(median(squares)), fmean(lags)
        if lag <= 0 or distance <= tolerated_distance(objective):
            return ""
        self._has_warned = True
        return self._sentence(objective, distance, lag, median(sizes), fmean(rates))

    def _sentence(self, objective: ObjectiveConfig, distance: float, lag: float, ess: float, rate: float) -> str:
        tolerated = tolerated_distance(objective)
        share = tolerated / distance
        clips = objective.loss is Loss.clip
        bound = f"objective.clip_low = {objective.clip_low:g}" if clips else "objective.second_moment"
        lower = f"buffer.eta={math.floor(self._eta * share)}, or " if self._eta > 0 else ""
        fewer = "fewer learner.minibatches, or " if self._minibatches > 1 else ""
        return (
            f"the tokens of the last {WINDOW} steps are {distance:.2g} nats (root mean square) from the policy that they "
            f"train, {distance / lag:.2g} for each of the {lag:.1f} updates that they lag (eta up to {self._eta}, "
            f"{self._minibatches} mini-batches, learning rate {rate:.2g}; effective sample size {ess:.3f}). At eta = 0 "
            f"{bound} pushes no token beyond {tolerated:.2g}. Consider {lower}{fewer}"
            f"learner.lr={rate * share:.1g}, or an eta that adapts (buffer.adaptive, docs/staleness.md)"
        )
