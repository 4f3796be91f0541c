"""95 % intervals of scores. The prompts are what was drawn at random: rollouts of one prompt are alike, and count together.

A score has Wilson's interval, with the number of prompts that would spread as much as these do if each were only right or
wrong; prompts that are all alike count as they are. A difference between two models has the interval of a bootstrap over
prompts, which are drawn for both at once. Sources: Wilson 1927; Korn and Graubard 1998 for the effective number; Efron 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959964  # of a normal distribution, two-sided 95 %
RESAMPLES = 2000
CHUNK = 100  # resamples that are drawn at once

Values = Sequence[float] | np.ndarray  # a score of each prompt


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score or a difference of two, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(tasks: Sequence[Values]) -> Estimate:
    """The mean over tasks of the mean over each task's prompts. Scores that are not in [0, 1] have a normal interval."""
    each = [np.asarray(values, dtype=np.float64) for values in tasks]
    value = float(np.mean([values.mean() for values in each]))
    variance = sum(_variance_of_mean(values) for values in each) / len(each) ** 2
    if any(values.min() < 0 or values.max() > 1 for values in each):
        half = Z * float(np.sqrt(sum(values.var() / len(values) for values in each))) / len(each)
        return Estimate(value, value - half, value + half)
    num_prompts = sum(map(len, each))
    spread = value * (1 - value)
    effective = spread / variance if variance > 0 and spread > 0 else num_prompts
    return Estimate(value, *wilson(value, effective))


def wilson(share: float, num: float) -> tuple[float, float]:
    """Wilson's interval for a share of `num` trials."""
    scale = 1 + Z**2 / num
    centre = (share + Z**2 / (2 * num)) / scale
    half = Z * np.sqrt(share * (1 - share) / num + Z**2 / (4 * num**2)) / scale
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def difference(tasks: Sequence[tuple[Values, Values]], seed: int = 0) -> Estimate:
    """Second minus first, as `estimate` would have them; each task has the scores of the same prompts in the same order."""
    apart = [np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64) for first, second in tasks]
    value = float(np.mean([values.mean() for values in apart]))
    if all(np.ptp(values) == 0 for values in apart):
        reach = _zero_reach(sum(map(len, apart)))
        most = max(1.0, abs(value))
        return Estimate(value, max(-most, value - reach), min(most, value + reach))
    low, high = np.quantile(_resampled(apart, seed), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _resampled(tasks: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Means of resampled prompts, [RESAMPLES], spread as means of fresh prompts would be."""
    generator = np.random.default_rng(seed)
    total = np.zeros(RESAMPLES)
    for values in tasks:
        size = len(values)
        means = [values[generator.integers(0, size, (CHUNK, size))].mean(axis=1) for _ in range(0, RESAMPLES, CHUNK)]
        # resamples of few prompts spread less than those prompts do
        wider = np.sqrt(size / (size - 1)) if size > 1 else 1.0
        total += values.mean() + wider * (np.concatenate(means) - values.mean())
    return total / len(tasks)


def _variance_of_mean(values: np.ndarray) -> float:
    """Of prompts that are all alike: as if one more were half right, because their true spread is unknown, not 0."""
    size = len(values)
    if size > 1 and np.ptp(values) > 0:
        return float(values.var(ddof=1)) / size
    share = (float(values.sum()) + 0.5) / (size + 1)
    return share * (1 - share) / size


def _zero_reach(size: int) -> float:
    """How far a difference may be from what every prompt shows alike: Wilson's bound for an event that never happened."""
    return wilson(0.0, size)[1]
