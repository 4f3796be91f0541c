"""Noise by hash: even, and the same for the same seed and position."""

from __future__ import annotations

import numpy as np
from prolong.actor.engines.noise import uniforms


def test_uniforms_are_a_function_of_seed_and_position():
    seeds, positions = np.array([1, 1, 2, 1]), np.array([5, 6, 5, 5])
    numbers = uniforms(seeds, positions)
    assert numbers[0] == numbers[3]
    assert len(set(numbers.tolist())) == 3


def test_uniforms_fill_the_unit_interval_evenly_for_consecutive_seeds_and_positions():
    seeds, positions = (grid.ravel() for grid in np.meshgrid(np.arange(1_000_000, 1_000_200), np.arange(200)))
    numbers = uniforms(seeds, positions)
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    counts, _ = np.histogram(numbers, bins=100, range=(0.0, 1.0))
    chi_square = float(((counts - 400.0) ** 2 / 400.0).sum())
    assert chi_square < 160.0  # 99 degrees of freedom: one in ten thousand is above

    neighbours = numbers.reshape(200, 200)
    assert abs(np.corrcoef(neighbours[:, :-1].ravel(), neighbours[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(neighbours[:-1].ravel(), neighbours[1:].ravel())[0, 1]) < 0.02
