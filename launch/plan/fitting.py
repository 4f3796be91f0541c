"""Small fits with few numbers: a line through noisy sums, and the pass rates behind a share of groups without signal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ROUNDS = 8  # of reweighting
LEAST_ERROR = 0.03  # relative: rows that are closer than this to the line weigh the same
EVEN_SHARES = 0.7  # weight of a row which says that both parts cost the same; one that fits well weighs 6


def fit_two(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """a and b, neither below 0, such that a x + b y is near z for the rows (x, y, z) in relative terms.

    Least absolute errors, by reweighted least squares: a stretch during which the machine did something else weighs little.
    Rows whose x and y hardly differ in their ratio do not tell a from b; then both take their half.
    """
    table = np.asarray([row for row in rows if row[2] > 0], dtype=np.float64)
    if len(table) == 0:
        return 0.0, 0.0
    inputs, target = table[:, :2] / table[:, 2:], np.ones(len(table))
    even = inputs.mean(axis=0) * [1, -1] * EVEN_SHARES
    weights = np.ones(len(table))
    found = np.zeros(2)
    for _ in range(ROUNDS):
        found = _least_squares(np.vstack([inputs * weights[:, None], even]), np.append(target * weights, 0))
        errors = np.abs(inputs @ found - target)
        weights = 1 / np.sqrt(np.maximum(errors, LEAST_ERROR))
    return float(found[0]), float(found[1])


def _least_squares(inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The best of the solutions without a negative number."""
    both, *_ = np.linalg.lstsq(inputs, target, rcond=None)
    if (both >= 0).all():
        return both
    candidates: list[np.ndarray] = []
    for column in range(2):
        alone, square = np.zeros(2), float(inputs[:, column] @ inputs[:, column])
        alone[column] = max(float(inputs[:, column] @ target), 0.0) / square if square > 0 else 0.0
        candidates.append(alone)
    return min(candidates, key=lambda each: float(np.sum((inputs @ each - target) ** 2)))
