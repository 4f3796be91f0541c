"""The settings of the algorithm: objective, reward shaping, reference, stages. sections.py has the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import require
from .choices import (
    Advantage,
    Aggregation,
    Correction,
    KLEstimator,
    KLPlacement,
    KLWeight,
    Loss,
    Rejection,
    ResetSource,
    Weighting,
)


@dataclass(kw_only=True, slots=True)
class ObjectiveConfig:
    """The policy loss, its correction for stale samples, and the KL term. `preset=NAME` sets them as a paper did."""

    advantage: Advantage = Advantage.group_std  # how rewards become advantages
    loss: Loss = Loss.clip  # form of the policy loss
    # losses clip, gspo and gepo: the ratio is not below 1 - this; dppo_*: bound on the divergence, for tokens that got rarer
    clip_low: float = 0.2
    # losses clip, gspo, gepo and cispo: the ratio is not above 1 + this; dppo_*: bound for tokens that got more likely
    clip_high: float = 0.4
    dual_clip: float = 0.0  # loss clip: the loss of a negative advantage is at most this * |A|; 0: off
    # loss m2po: bound on the mean squared log-ratio of the tokens that move harmfully
    second_moment: float = 0.04
    correction: Correction = Correction.bypass  # how the behaviour policy enters the objective
    weighting: Weighting = Weighting.truncate  # of the behaviour weight
    truncation: float = 2.0  # weighting truncate: behaviour weights are min(w, this)
    mask_low: float = 0.5  # weighting mask: tokens with a smaller weight leave the loss
    mask_high: float = 5.0  # weighting mask: tokens with a larger weight leave the loss
    rejection: Rejection = Rejection.none  # whether whole rollouts are left out
    reject_low: float = 0.999  # rejection: lower bound
    reject_high: float = 1.002  # rejection: upper bound
    opsm_delta: float = 0.0  # leave out rollouts with A < 0 and mean(behaviour - policy) above this; 0: off
    aggregation: Aggregation = Aggregation.token_mean  # the quantity that the loss averages over
    length_constant: float = 1.0  # aggregation sequence_sum divides by this (Dr.GRPO: sampling.max_tokens)
    kl_beta: float = 1e-4  # 0: no KL term, and no reference forward
    kl_placement: KLPlacement = KLPlacement.loss  # where KL(policy, reference) enters
    kl_estimator: KLEstimator = KLEstimator.k3  # of KL(policy, reference)
    kl_weight: KLWeight = KLWeight.auto  # the importance weight of the KL term
    kl_clamp: float = 10.0  # log-ratios to the reference are clamped to +- this
    # nats; the entropy bonus grows below this entropy and shrinks above it; 0: no bonus
    entropy_target: float = 0.0
    entropy_rate: float = 1e-4  # change of the bonus's coefficient per step and nat
    entropy_max: float = 0.01  # largest coefficient of the bonus

    def __post_init__(self) -> None:
        require(0 < self.clip_low < 1, "objective.clip_low", self.clip_low, "in (0, 1)")
        require(self.clip_high > 0, "objective.clip_high", self.clip_high, "a positive number")
        require(self.dual_clip == 0 or self.dual_clip > 1, "objective.dual_clip", self.dual_clip, "0, or more than 1")
        require(self.second_moment > 0, "objective.second_moment", self.second_moment, "a positive number")
        require(self.truncation > 0, "objective.truncation", self.truncation, "a positive number")
        for name in ("mask", "reject"):
            low, high = getattr(self, f"{name}_low"), getattr(self, f"{name}_high")
            require(0 <= low < high, f"objective.{name}_low", low, f"0 or more, and below objective.{name}_high = {high:g}")
        for name in ("opsm_delta", "kl_beta", "entropy_target", "entropy_rate", "entropy_max"):
            require(getattr(self, name) >= 0, f"objective.{name}", getattr(self, name), "0 or more")
        require(self.kl_clamp > 0, "objective.kl_clamp", self.kl_clamp, "a positive number")
        require(self.length_constant > 0, "objective.length_constant", self.length_constant, "a positive number")
        check_objective(self)


# losses that are made for the ratio of policy and sampler
TO_SAMPLER = (Loss.m2po, Loss.gepo)


def check_objective(cfg: ObjectiveConfig) -> None:
    """Raise ConfigError, with the reason, for settings that contradict each other."""
    clips = cfg.loss is Loss.clip
    require(cfg.dual_clip == 0 or clips, "objective.dual_clip", cfg.dual_clip, f"0: loss {cfg.loss.name} has no dual clip")
    corrected = cfg.correction is not Correction.bypass
    unweighted = "truncate, or correction decoupled: with correction bypass the ratio is the weight, and would count twice"
    require(corrected or cfg.weighting is Weighting.truncate, "objective.weighting", cfg.weighting.name, unweighted)
    one_ratio = cfg.loss not in TO_SAMPLER or cfg.correction is Correction.bypass
    itself = f"bypass: loss {cfg.loss.name} looks at the ratio to the sampler itself"
    require(one_ratio, "objective.correction", cfg.correction.name, itself)
    if cfg.kl_beta > 0:
        _check_kl(cfg)


# (placement, estimator) -> the weight with which the gradient is that of KL(policy, reference)
KL_PAIRS = {
    (KLPlacement.loss, KLEstimator.k1): KLWeight.live,
    (KLPlacement.loss, KLEstimator.k2): KLWeight.detached,
    (KLPlacement.loss, KLEstimator.k3): KLWeight.live,
    (KLPlacement.reward, KLEstimator.k1): KLWeight.detached,
}


def _check_kl(cfg: ObjectiveConfig) -> None:
    """Refuse every pair whose expected gradient is wrong; tests/unit/learner/algorithm/test_kl.py enumerates all pairs."""
    pair = f"{cfg.kl_estimator.name} in the {cfg.kl_placement.name}"
    right = KL_PAIRS.get((cfg.kl_placement, cfg.kl_estimator))
    known = "k1, the only one whose gradient is right in the reward"
    require(right is not None, "objective.kl_estimator", cfg.kl_estimator.name, known)
    assert right is not None
    in_reward = cfg.kl_placement is KLPlacement.reward
    weighted = cfg.weighting is not Weighting.none
    truncate = "truncate or mask: KL in the reward relies on the policy loss's behaviour weight"
    require(weighted or not in_reward, "objective.weighting", cfg.weighting.name, truncate)
    if cfg.kl_weight is KLWeight.auto:
        return
    why = {
        KLWeight.none: "without a weight, samples of an older policy give another gradient",
        KLWeight.live: f"a live weight with {pair} has the wrong gradient",
        KLWeight.detached: f"a constant weight with {pair} has the gradient of another quantity (k1: none, k3: the forward KL)",
    }[cfg.kl_weight]
    require(cfg.kl_weight is right, "objective.kl_weight", cfg.kl_weight.name, f"{right.name} for {pair}: {why}")


@dataclass(kw_only=True, slots=True)
class RewardsConfig:
    """How the learner shapes rewards by length. Dynamic sampling looks at them unshaped. Everything is off by default."""

    # rewards of rollouts that reach max_tokens are multiplied by this (ProRL, stages 4 and 5: 0)
    truncated: float = 1.0
    cosine_on: int = 0  # steps of each cycle in which the cosine length factor applies; 0: never
    cosine_off: int = 0  # steps of each cycle in which it does not apply
    cosine_min: float = 0.5  # the factor of a rollout of max_tokens
    cosine_max: float = 1.0  # the factor of an empty rollout
    # length is penalised linearly in this last share of max_tokens; 0: off (DAPO)
    overlong_share: float = 0.0
    overlong_penalty: float = 1.0  # subtracted at max_tokens

    def __post_init__(self) -> None:
        for name in ("cosine_on", "cosine_off", "overlong_share", "overlong_penalty"):
            require(getattr(self, name) >= 0, f"rewards.{name}", getattr(self, name), "0 or more")
        require(self.overlong_share <= 1, "rewards.overlong_share", self.overlong_share, "at most 1")
        low, high = self.cosine_min, self.cosine_max
        require(low <= high, "rewards.cosine_min", low, f"at most rewards.cosine_max = {high:g}")


@dataclass(kw_only=True, slots=True)
class ReferenceConfig:
    """The frozen policy of the KL term, and when a reset replaces it. The first of several triggers to fire resets."""

    reset_every: int = 0  # trigger: so many steps since the last reset; 0: off
    kl_above: float = 0.0  # trigger: the mean KL to the reference in a step is larger; 0: off
    plateau: int = 0  # trigger: so many validation sweeps in a row without a better score; 0: off
    min_delta: float = 0.0  # plateau: a score is better when it is higher by more than this
    # trigger: the score is below the best one since the last reset by more than this; 0: off
    drop: float = 0.0
    cooldown: int = 0  # steps after a reset in which no trigger fires; `prolong reset` still works
    source: ResetSource = ResetSource.current  # the weights that a reset starts from
    reset_reference: bool = True  # a reset replaces the reference; False: it only clears the state of AdamW
    reset_optimizer: bool = True  # a reset clears the state of AdamW
    # the reference becomes ema * reference + (1 - ema) * policy, a soft reset; 0: off, the reference stays
    ema: float = 0.0
    ema_every: int = 1  # steps from one such average to the next

    def __post_init__(self) -> None:
        for name in ("reset_every", "kl_above", "plateau", "min_delta", "drop", "cooldown"):
            require(getattr(self, name) >= 0, f"reference.{name}", getattr(self, name), "0 or more")
        require(0 <= self.ema < 1, "reference.ema", self.ema, "in [0, 1)")
        require(self.ema_every >= 1, "reference.ema_every", self.ema_every, "1 or more")
        either = self.reset_reference or self.reset_optimizer
        require(either, "reference.reset_optimizer", False, "true, or reference.reset_reference: a reset must do something")


@dataclass(kw_only=True, slots=True)
class StageConfig:
    """A stage of a run: the settings that it changes, and when the next stage begins. Other settings are those of the run."""

    name: str = "???"  # shown in the live view, in metrics and in log lines
    steps: int = 0  # the stage ends after so many steps; 0: with the run
    # the stage also ends when a trigger of `reference` fires; the next one begins with that reset
    on_trigger: bool = False
    target: float = 0.0  # the stage also ends when the mean validation score reaches this; 0: off
    reset: bool = False  # the stage begins with a reset, as `reference` says
    sampling: dict[str, Any] = field(default_factory=dict)  # n, temperature, top_p, top_k, min_p, stop, max_tokens
    data: dict[str, Any] = field(default_factory=dict)  # weights: {NAME: WEIGHT}
    learner: dict[str, Any] = field(default_factory=dict)  # lr, lr_schedule
    # any key; kl_beta only if it is above 0 in the run and here
    objective: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, Any] = field(default_factory=dict)  # any key
    reference: dict[str, Any] = field(default_factory=dict)  # any key

    def __post_init__(self) -> None:
        require(self.steps >= 0, "stages.*.steps", self.steps, "0 or more")
        require(self.target >= 0, "stages.*.target", self.target, "0 or more")
