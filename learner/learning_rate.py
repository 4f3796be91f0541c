"""The learning rate over a stage: warm-up and decay, as a pure function of recorded numbers.

    factor(version) = warm-up(steps since the stage began or AdamW was cleared) x decay(steps since the stage began)

A resumed run and a replay get the same factors. `Trainer.train` multiplies `learner.lr` by the factor, so that another
source of factors only has to multiply.
"""

from __future__ import annotations

import math

from ..common.config.choices import LrSchedule
from ..common.config.learner import LrScheduleConfig


def lr_factor(cfg: LrScheduleConfig, *, step: int, steps: int, since_reset: int) -> float:
    """Return the share of `learner.lr` with which a stage takes its step number `step`, counted from 0.

    steps: the length of the stage. since_reset: steps of this stage since AdamW was last cleared; the warm-up begins again
    there, the decay goes on. Sources: cosine, arXiv 1608.03983; warmup_stable_decay, arXiv 2404.06395.
    """
    return _warmup(cfg, since_reset) * _decay(cfg, step, steps)


def ess_factor(ess: float, on_policy: float) -> float:
    """Return the share of the rate of a step that an update takes: sqrt(ess / on_policy), at most 1; 1 if on_policy is 0.

    ess: policy/ess of that very update, from its forward pass. Source: VCPO, arXiv 2602.17616, where every rollout has one
    weight; here every token has one.
    """
    return min(1.0, math.sqrt(ess / on_policy)) if on_policy else 1.0


def _warmup(cfg: LrScheduleConfig, step: int) -> float:
    """Rise in equal parts from above 0; the step number `warmup` is the first with the full rate."""
    return min(1.0, (step + 1) / (cfg.warmup + 1))


def _decay(cfg: LrScheduleConfig, step: int, steps: int) -> float:
    """Fall from 1, which the first step of the decay has, to `final`, which the first step after it has."""
    if cfg.kind is LrSchedule.constant:
        return 1.0
    length = cfg.decay or max(1, steps - cfg.warmup)
    begin = steps - length if cfg.kind is LrSchedule.warmup_stable_decay else cfg.warmup
    progress = min(1.0, max(0.0, (step - begin) / length))
    if cfg.kind is LrSchedule.cosine:
        progress = (1 - math.cos(math.pi * progress)) / 2
    return 1.0 - (1.0 - cfg.final) * progress
