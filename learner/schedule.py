"""The consequences of a step: a reset of the reference, the next stage of the run, or its end.

    a step's batch and metrics --> decide (reset_triggers.py) --> next_stage --> StepOutcome

Nothing here touches weights. The same history gives the same outcomes, which `outcomes_of` computes from a metrics file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from ..common.config.algorithm import StageConfig
from ..common.config.choices import AlertAnswer, ResetSource
from ..common.config.sections import Config
from ..common.config.stages import staged_configs, total_steps
from ..common.config.trees import alerts_config, lr_schedule_config
from ..common.json_object import JsonObject
from ..common.types import Batch, ValidationSetting
from .alerts import Alert, AlertState, alert_metrics, judge
from .learning_rate import lr_factor
from .reset_triggers import Evidence, ResetState, after_reset, decide

# triggers and targets look at validation sweeps of this setting
SETTING = ValidationSetting.sampled
# scores arrive some steps after the version they belong to; no more than so many sweeps are waited for
SWEEPS_UNDER_WAY = 16


class StageState(msgspec.Struct, frozen=True, kw_only=True):
    """The stage that the next step belongs to. Part of every checkpoint."""

    # an index equal to the number of stages says that the last stage has ended, and the run with it
    index: int = 0
    # version at which the stage began
    started: int = 0


def next_stage(
    state: StageState, stages: list[StageConfig], *, version: int, fired: bool, score: tuple[int, float] | None
) -> StageState:
    """Return the state after the step that made `version`.

    `fired`: whether a trigger of `reference` fired. `score`: (version, mean) of the validation sweep that arrived with the
    step; the score of a version from before the stage does not count towards its target.
    """
    if state.index >= len(stages):
        return state
    stage = stages[state.index]
    full = 0 < stage.steps <= version - state.started
    reached = score is not None and score[0] >= state.started and 0 < stage.target <= score[1]
    if full or reached or (stage.on_trigger and fired):
        return StageState(index=state.index + 1, started=version)
    return state


@dataclass(slots=True)
class StepOutcome:
    """The actions to take after a step."""

    # the trigger that fired, "stage" for the reset that a stage begins with, or empty for no reset
    reset: str = ""
    # whether another stage begins
    stage: bool = False
    # limits that were passed
    alerts: list[Alert] = field(default_factory=list)

    @property
    def stops(self) -> bool:
        """Whether the run stops here because of an alert."""
        return any(alert.answer is AlertAnswer.stop for alert in self.alerts)


class Schedule:
    """The run's stages, triggers and alerts. `stage`, `resets` and `alerts` are part of every checkpoint."""

    def __init__(self, cfg: Config, stage: StageState, resets: ResetState, alerts: AlertState | None = None) -> None:
        """Takes the whole configuration of the run, because a stage is that configuration with sections laid over it."""
        self.stage, self.resets = stage, resets
        self.alerts = AlertState() if alerts is None else alerts
        self.limits = alerts_config(cfg)
        self._run = cfg
        self._configs = staged_configs(cfg)
        self._steps = total_steps(cfg)

    @property
    def cfg(self) -> Config:
        """The configuration of the present stage; after the last stage, still that of the last."""
        return self._configs[min(self.stage.index, len(self._configs) - 1)]

    def lr_factor(self, version: int) -> float:
        """The share of the learning rate with which the step from `version` is taken. A stage's steps count from its begin."""
        begin, stages = self.stage.started, self._run.stages[self.stage.index :]
        end = min(begin + stages[0].steps, self._steps) if stages and stages[0].steps else self._steps
        cleared = max(begin, self.resets.last) if self.cfg.reference.reset_optimizer else begin
        schedule = lr_schedule_config(self.cfg.learner)
        factor = lr_factor(schedule, step=version - begin, steps=end - begin, since_reset=version - cleared)
        return factor * self.alerts.lr_share

    def averages_reference(self, version: int) -> bool:
        """Whether the reference takes the policy of `version` into its average, under the present stage."""
        how = self.cfg.reference
        return how.ema > 0 and version % how.ema_every == 0

    def ended(self, version: int) -> bool:
        """Whether the run is over at `version`."""
        return version >= self._steps or (bool(self._run.stages) and self.stage.index >= len(self._run.stages))

    def step_outcome(self, seen: Evidence) -> StepOutcome:
        """Take a step's evidence into account and move the state on to the next step."""
        self.alerts, alerts = judge(self.alerts, seen.version, seen.numbers, seen.score, self.limits)
        self.resets, reset = decide(self.resets, seen, self.cfg.reference)
        stage = next_stage(self.stage, self._run.stages, version=seen.version, fired=reset != "", score=seen.score)
        changed = stage != self.stage
        self.stage = stage
        if self.ended(seen.version):
            return StepOutcome(alerts=alerts)
        if changed and not reset and self._run.stages[stage.index].reset:
            reset = "stage"
        if not reset and any(alert.answer is AlertAnswer.reset for alert in alerts):
            reset = "alert"
        if reset:
            self.resets = after_reset(self.resets, seen.version)
        return StepOutcome(reset=reset, stage=changed, alerts=alerts)

    def alert_metrics(self, outcome: StepOutcome) -> dict[str, float]:
        """What the record of the step says of alerts; nothing in a run that has no limits."""
        return alert_metrics(outcome.alerts, self.alerts) if self.limits.limits() else {}

    def protected(self) -> frozenset[int]:
        """Versions whose checkpoints a reset to the best may need: the best so far, and those still without a score."""
        every, newest = self._run.validation.every, self.resets.scored
        if not any(cfg.reference.source is ResetSource.best for cfg in self._configs):
            return frozenset()
        waiting = range(newest - newest % every + every, newest + SWEEPS_UNDER_WAY * every, every)
        return frozenset({self.resets.record_version, *waiting})


def evidence_of(batch: Batch, metrics: dict[str, float], version: int) -> Evidence:
    """Collect the evidence for triggers and targets, after the step that trained `batch` and made `version`."""
    scores = [(score.version, score.mean) for score in batch.validation if score.setting == SETTING]
    return Evidence(
        version=version,
        kl=metrics.get("reference/kl", 0.0),
        numbers=metrics,
        score=max(scores, default=None),
        asked=batch.reset_requested,
    )


def outcomes_of(cfg: Config, records: Iterable[JsonObject]) -> Iterator[tuple[int, StepOutcome]]:
    """Yield (version, outcome) for every step of a recorded run, from its metrics alone."""
    schedule = Schedule(cfg, StageState(), ResetState())
    for record in records:
        version, mean = record.get(f"validation/{SETTING}/version"), record.get(f"validation/{SETTING}/mean")
        # metrics files have null for a KL that is not finite
        kl = record["reference/kl"]
        seen = Evidence(
            version=record["step"],
            kl=0.0 if kl is None else kl,
            score=None if version is None or mean is None else (int(version), mean),
            asked=bool(record.get("reference/asked")),
            numbers=record,
        )
        yield record["step"], schedule.step_outcome(seen)
