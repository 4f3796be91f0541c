"""pass@k and maj@k against an oracle that draws every choice of k rollouts."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from prolong.launch.evaluate.estimators import maj_at_k, pass_at_k


def drawn_pass(n: int, correct: int, k: int) -> float:
    rollouts = [index < correct for index in range(n)]
    return sum(any(draw) for draw in combinations(rollouts, k)) / comb(n, k)


def drawn_majority(n: int, right: int, wrong: list[int], k: int) -> float:
    answers = ["right"] * right + [str(which) for which, size in enumerate(wrong) for _ in range(size)]
    answers += [""] * (n - len(answers))
    total = Fraction(0)
    for draw in combinations(answers, k):
        votes = Counter(answer for answer in draw if answer)
        most = [answer for answer, count in votes.items() if count == max(votes.values())]
        total += Fraction(int("right" in most), max(len(most), 1))
    return float(total / comb(n, k))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_mean_over_all_choices(n: int) -> None:
    for correct in range(n + 1):
        for k in range(1, n + 1):
            assert pass_at_k(n, correct, k) == pytest.approx(drawn_pass(n, correct, k), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "right", "wrong"),
    [
        (8, 3, [2, 2, 1]),
        (8, 3, [3, 2]),
        (8, 1, [1, 1, 1, 1, 1, 1, 1]),
        (9, 4, []),
        (7, 0, [3, 2]),
        (6, 2, [2]),
        (5, 5, []),
        (4, 0, []),
    ],
)
def test_maj_at_k_is_the_mean_over_all_choices(n: int, right: int, wrong: list[int]) -> None:
    for k in range(1, n + 1):
        assert maj_at_k(n, right, wrong, k) == pytest.approx(drawn_majority(n, right, wrong, k), abs=1e-12)


def test_pass_at_k_of_many_rollouts_is_exact() -> None:
    """A product of factors would lose it in rounding: one right rollout of a thousand."""
    assert pass_at_k(1000, 1, 500) == 0.5
    assert 1 - pass_at_k(1000, 500, 500) == pytest.approx(1 / comb(1000, 500), abs=1e-15)
