"""The coefficient of the entropy bonus: a controller that holds the policy's entropy near a target.

c <- c + rate * (target - entropy), kept in [0, max]: it grows while the entropy is below the target and shrinks above, to no
bonus at all. Source: adaptive entropy control of Skywork-OR1, arXiv 2505.22312, where the steps are of constant size.
"""

from __future__ import annotations

import math

from ...common.config.algorithm import ObjectiveConfig


def next_coefficient(coefficient: float, entropy: float, cfg: ObjectiveConfig) -> float:
    """The coefficient for the next step. entropy: mean over the step's tokens, nats; if not finite, nothing changes."""
    if cfg.entropy_target == 0:
        return 0.0
    if not math.isfinite(entropy):
        return coefficient
    return min(max(coefficient + cfg.entropy_rate * (cfg.entropy_target - entropy), 0.0), cfg.entropy_max)
