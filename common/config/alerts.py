"""The settings of alerts: limits on the numbers of a step, and the answers; sections.py has those of the other parts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..errors import require
from .choices import AlertAnswer


@dataclass(kw_only=True, slots=True)
class AlertsConfig:
    """When the learner raises an alert, and what it does then (docs/monitoring.md)."""

    kl_above: float = 0.0  # mean KL to the reference over the step's tokens (reference/kl), nats; 0: off
    entropy_below: float = 0.0  # mean entropy of the policy over the step's tokens (learner/entropy), nats; 0: off
    ess_below: float = 0.0  # effective sample size of the step's tokens (policy/ess), a share; 0: off
    grad_norm_above: float = 0.0  # norm of the gradient before it is clipped (learner/grad_norm); 0: off
    truncated_above: float = 0.0  # share of rollouts that reached sampling.max_tokens (rollout/truncated); 0: off
    reward_below: float = 0.0  # mean reward of the step (reward/mean); 0: off
    # the mean validation score (setting "sampled") is below the best one so far by more than this; 0: off
    score_drop: float = 0.0
    steps: int = 3  # steps in a row that must be beyond a limit; a validation score counts by itself
    pause: int = 50  # steps after an alert in which the same limit raises none
    answer: AlertAnswer = AlertAnswer.log  # of every limit
    # limit -> an answer of its own, such as {kl_above: stop}
    answers: dict[str, AlertAnswer] = field(default_factory=dict)
    lr_factor: float = 0.5  # answer lower_lr: the learning rate is multiplied by this, every time

    def __post_init__(self) -> None:
        for name in LIMITS:
            require(getattr(self, name) >= 0, f"alerts.{name}", getattr(self, name), "0 or more")
        require(self.steps >= 1, "alerts.steps", self.steps, "at least 1")
        require(self.pause >= 0, "alerts.pause", self.pause, "0 or more")
        require(0 < self.lr_factor < 1, "alerts.lr_factor", self.lr_factor, "between 0 and 1")
        for name, answer in self.answers.items():
            require(name in LIMITS, f"alerts.answers.{name}", answer.name, f"one of the limits {', '.join(LIMITS)}")
            require(getattr(self, name) > 0, f"alerts.answers.{name}", answer.name, f"alerts.{name} above 0: it is off")

    def limits(self) -> dict[str, float]:
        """Those that are not off."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) > 0}

    def answer_to(self, limit: str) -> AlertAnswer:
        return self.answers.get(limit, self.answer)


LIMITS = tuple(item.name for item in fields(AlertsConfig) if item.name.endswith(("_above", "_below", "_drop")))
