"""The time of decode steps whose contexts grow, and its inverse.

While r rollouts run, x steps from contexts of c tokens in all take the integral from 0 to x of

    max(a + k (c + r y), m) dy    a = step_base_s + step_per_rollout_s r,  k = step_per_kv_token_s,  m = compute_per_rollout_s r

Steps are real numbers here: a long rollout does not notice, and events come once a rollout, not once a token.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .cluster import PoolDevice


class DecodePace(NamedTuple):
    """The three numbers above for one number of running rollouts."""

    read_s: float  # a + k c, at the start
    growth_s: float  # k r: more with each step
    least_s: float  # m

    @classmethod
    def of(cls, device: PoolDevice, running: int, context_tokens: float, speed: float = 1.0) -> DecodePace:
        """The pace from now on, until the number of running rollouts changes. `speed`: share of the device's."""
        kv_s = device.step_per_kv_token_s
        read_s = device.step_base_s + device.step_per_rollout_s * running + kv_s * context_tokens
        return cls(read_s / speed, kv_s * running / speed, device.compute_per_rollout_s * running / speed)

    def seconds(self, steps: float) -> float:
        """Seconds that so many steps take."""
        if self.growth_s == 0.0:
            return steps * max(self.read_s, self.least_s)
        bound = self._bound_by_arithmetic()
        if steps <= bound:
            return steps * self.least_s
        rest = steps - bound
        return bound * self.least_s + rest * (max(self.read_s, self.least_s) + self.growth_s * rest / 2)

    def steps(self, seconds: float) -> float:
        """Steps that so many seconds hold."""
        if self.growth_s == 0.0:
            return seconds / max(self.read_s, self.least_s)
        bound = self._bound_by_arithmetic()
        if bound > 0 and seconds <= bound * self.least_s:
            return seconds / self.least_s
        rest_s, first_s = seconds - bound * self.least_s, max(self.read_s, self.least_s)
        # the root of first_s y + growth_s y^2 / 2 = rest_s, in the form that does not cancel
        return bound + 2 * rest_s / (first_s + math.sqrt(first_s * first_s + 2 * self.growth_s * rest_s))

    def _bound_by_arithmetic(self) -> float:
        """Steps until reading takes longer than arithmetic."""
        return max(0.0, (self.least_s - self.read_s) / self.growth_s)
