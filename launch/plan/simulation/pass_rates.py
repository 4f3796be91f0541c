"""Pass rates that differ from prompt to prompt: the share of groups whose rewards are all equal, for any n.

A prompt's pass rate is Beta-distributed. `correlation` is that of the rewards of two rollouts of one prompt, 1 / (a + b + 1)
for Beta(a, b): at 0 all prompts are alike, near 1 each is always right or always wrong.
"""

from __future__ import annotations

from typing import NamedTuple

MOST = 0.999  # correlation of prompts that are always right or always wrong
_BISECTIONS = 40


class PassRates(NamedTuple):
    """Example: PassRates(mean=0.9, correlation=0.4).no_signal(16)"""

    mean: float
    correlation: float

    def all_right(self, n: int) -> float:
        """The share of groups with n right rollouts."""
        return _all_alike(self.mean, self.correlation, n)

    def no_signal(self, n: int) -> float:
        """The share of groups whose n rewards are equal."""
        return self.all_right(n) + _all_alike(1 - self.mean, self.correlation, n)

    @classmethod
    def fit(cls, mean: float, no_signal: float, n: int) -> PassRates:
        """Those of this mean with this share of groups without signal among groups of n; the nearest there are."""
        low, high = 0.0, MOST
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if cls(mean, middle).no_signal(n) < no_signal else (low, middle)
        return cls(mean, (low + high) / 2)


def _all_alike(mean: float, correlation: float, n: int) -> float:
    """The mean of p^n for Beta-distributed p of this mean."""
    # a + b, times the correlation: so nothing is divided by a correlation of 0
    correlation = min(correlation, MOST)
    total, share = 1 - correlation, 1.0
    for drawn in range(n):
        share *= (mean * total + correlation * drawn) / (total + correlation * drawn)
    return share
