"""The table of policy losses: the names of `objective.loss` (common/config/choices.py) and the losses that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ....common.config.algorithm import ObjectiveConfig
from ....common.config.choices import Loss
from ..api import PolicyLoss
from .divergence import dppo_kl_loss, dppo_tv_loss
from .group_expectation import GroupExpectationLoss
from .per_token import PerToken, cispo_loss, clip_loss, gspo_loss, sapo_loss
from .second_moment import SecondMomentLoss

LOSSES: dict[Loss, Callable[[ObjectiveConfig], PolicyLoss]] = {
    Loss.clip: partial(PerToken, clip_loss),
    Loss.cispo: partial(PerToken, cispo_loss),
    Loss.gspo: partial(PerToken, gspo_loss),
    Loss.m2po: SecondMomentLoss,
    Loss.sapo: partial(PerToken, sapo_loss),
    Loss.gepo: GroupExpectationLoss,
    Loss.dppo_tv: partial(PerToken, dppo_tv_loss),
    Loss.dppo_kl: partial(PerToken, dppo_kl_loss),
}


def build_loss(cfg: ObjectiveConfig) -> PolicyLoss:
    """Build the loss that `cfg.loss` names."""
    return LOSSES[cfg.loss](cfg)
