"""Random numbers that depend on a rollout's seed and a token's position, and on nothing else.

A hash needs no state: a rollout that is preempted, recomputed or continued elsewhere meets the noise that it would have met.
Pure numpy; the engines that sample by themselves share it.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def noise_seeds(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[B] int64, not negative: splitmix64 of seed and position, both [B] integers."""
    mixed = seeds.astype(np.uint64) * _GOLDEN + positions.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[B] float64 in [0, 1): one number for each (seed, position), both [B] integers."""
    return (noise_seeds(seeds, positions) >> 10) * 2.0**-53
