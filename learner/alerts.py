"""Alerts: limits on the numbers of the steps, and the answer that each calls for.

    a step's numbers, the score that came with it --> judge (pure) --> AlertState, [Alert] --> schedule.py acts

The same numbers give the same alerts: in a resumed run as in an uninterrupted one, and again in a replay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ..common.config.alerts import AlertsConfig
from ..common.config.choices import AlertAnswer
from ..common.metrics import HUGE

# limit -> the number of a step's record that it is about
WATCHED = {
    "kl_above": "reference/kl",
    "entropy_below": "learner/entropy",
    "ess_below": "policy/ess",
    "grad_norm_above": "learner/grad_norm",
    "truncated_above": "rollout/truncated",
    "reward_below": "reward/mean",
}
SCORE_DROP = "score_drop"


class AlertState(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of the alerts, part of every checkpoint."""

    # limit -> steps in a row beyond it
    beyond: dict[str, int] = {}
    # limit -> the version whose step raised its last alert
    raised: dict[str, int] = {}
    # best validation score so far
    best: float | None = None
    # the share of the learning rate that the answers so far have left
    lr_share: float = 1.0


class Alert(NamedTuple):
    """A limit that was passed."""

    limit: str
    value: float
    allowed: float
    answer: AlertAnswer

    def sentence(self, steps: int) -> str:
        """What was seen, and what is done. steps: how many in a row make an alert."""
        name = "the validation score's drop" if self.limit == SCORE_DROP else WATCHED[self.limit]
        long = f" for {steps} steps" if self.limit != SCORE_DROP and steps > 1 else ""
        does = {
            AlertAnswer.log: "the run goes on",
            AlertAnswer.reset: "the reference is reset",
            AlertAnswer.lower_lr: "the learning rate is lowered",
            AlertAnswer.stop: "the run stops",
        }[self.answer]
        return f"alert: {name} = {self.value:.4g}, alerts.{self.limit} = {self.allowed:g}{long}; {does}"


def judge(
    state: AlertState, version: int, numbers: Mapping[str, float | None], score: tuple[int, float] | None, cfg: AlertsConfig
) -> tuple[AlertState, list[Alert]]:
    """The state after the step that made `version`, and the alerts that it raises.

    `numbers`: of the step's record; a limit whose number the record lacks is not passed, one whose number is null there is.
    `score`: (version, mean) of the validation sweep that arrived with the step; a mean that would be null counts as none.
    """
    beyond, raised, alerts = dict(state.beyond), dict(state.raised), []
    mean = score[1] if score is not None and _is_recorded(score[1]) else None
    drop = None if mean is None or state.best is None else state.best - mean
    best = max((known for known in (state.best, mean) if known is not None), default=None)
    lr_share = state.lr_share
    for limit, allowed in cfg.limits().items():
        value, needed = (drop, 1) if limit == SCORE_DROP else (_number(numbers, WATCHED[limit]), cfg.steps)
        if limit == SCORE_DROP and value is None:
            continue
        beyond[limit] = beyond.get(limit, 0) + 1 if value is not None and _is_beyond(limit, value, allowed) else 0
        resting = limit in raised and version - raised[limit] <= cfg.pause
        if value is None or beyond[limit] < needed or resting:
            continue
        answer = cfg.answer_to(limit)
        alerts.append(Alert(limit, value, allowed, answer))
        beyond[limit], raised[limit] = 0, version
        # several alerts of one step lower the rate once
        if answer is AlertAnswer.lower_lr and lr_share == state.lr_share:
            lr_share *= cfg.lr_factor
    return AlertState(beyond=beyond, raised=raised, best=best, lr_share=lr_share), alerts


def alert_metrics(alerts: list[Alert], state: AlertState) -> dict[str, float]:
    """For the step's record: alert/LIMIT with the number that passed it, alert/answer_NAME = 1, and the rate's share."""
    values = {f"alert/{alert.limit}": alert.value for alert in alerts}
    return values | {f"alert/answer_{alert.answer.name}": 1.0 for alert in alerts} | {"alert/lr_share": state.lr_share}


def _number(numbers: Mapping[str, float | None], name: str) -> float | None:
    """None if the record lacks it. A record that was read from a file has null for what was not finite."""
    if name not in numbers:
        return None
    value = numbers[name]
    return math.nan if value is None else value


def _is_recorded(value: float) -> bool:
    """Whether a record holds the number itself, and not null (common/metrics.py)."""
    return abs(value) < HUGE


def _is_beyond(limit: str, value: float, allowed: float) -> bool:
    return not _is_recorded(value) or (value < allowed if limit.endswith("_below") else value > allowed)
