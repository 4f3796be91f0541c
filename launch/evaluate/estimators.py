"""What one prompt's n rollouts say about k of them: pass@k and maj@k, exactly, over all choices of k of the n.

Source of pass@k: Chen et al. 2021 (arXiv 2107.03374), equation 1. maj@k is the same mean for the majority vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The probability that k of the n rollouts, drawn without replacement, hold a right one."""
    assert 0 <= correct <= n, "more right rollouts than rollouts"
    assert 1 <= k <= n, "no k of n rollouts can be drawn"
    return 1.0 - comb(n - correct, k) / comb(n, k)


def maj_at_k(n: int, right: int, wrong: Sequence[int], k: int) -> float:
    """The probability that the most frequent answer among k of the n rollouts, drawn without replacement, is the right one.

    right: rollouts with the right answer. wrong: how many gave each of the wrong answers. The other rollouts give no answer
    and have no vote. A tie between m answers counts as a vote for each of them with probability 1 / m; without any vote the
    result is wrong.
    """
    assert right + sum(wrong) <= n, "more votes than rollouts"
    assert 1 <= k <= n, "no k of n rollouts can be drawn"
    return _majority(n, right, tuple(sorted(wrong)), k)


@lru_cache(maxsize=1 << 16)
def _majority(n: int, right: int, wrong: tuple[int, ...], k: int) -> float:
    silent = n - right - sum(wrong)
    favourable = 0.0
    for votes in range(1, min(right, k) + 1):
        for ties, by_total in enumerate(_lesser(wrong, votes, k - votes)):
            ways = sum(count * comb(silent, k - votes - total) for total, count in enumerate(by_total))
            favourable += comb(right, votes) * ways / (ties + 1) / comb(n, k)
    return favourable


def _lesser(wrong: tuple[int, ...], votes: int, most: int) -> list[list[int]]:
    """[ties][total]: ways to draw `total` rollouts with wrong answers, none more than `votes` times, `ties` just as often."""
    ways = [[1] + [0] * most]
    for size in wrong:
        grown = [[0] * (most + 1) for _ in range(len(ways) + 1)]
        for ties, by_total in enumerate(ways):
            for total, count in enumerate(by_total):
                if not count:
                    continue
                for drawn in range(min(size, votes, most - total) + 1):
                    grown[ties + (drawn == votes)][total + drawn] += count * comb(size, drawn)
        # a tie that nobody can reach
        ways = grown if any(grown[-1]) else grown[:-1]
    return ways
