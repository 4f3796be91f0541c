"""What follows from a step besides the next one: a reset of the reference, the next stage, the end of the run.

    a step's batch and metrics --> decide (reference.py) --> next_stage (stages.py) --> Turn

Nothing here touches weights: the same history gives the same turns, which `turns_of` computes from a metrics file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..common.config.choices import ResetSource
from ..common.config.sections import Config
from ..common.config.stages import staged_configs, total_steps
from ..common.types import Batch, ValidationSetting
from .model.reference import Evidence, ResetState, after_reset, decide
from .stages import StageState, next_stage

SETTING = ValidationSetting.sampled  # of the sweeps that triggers and targets look at
SWEEPS_UNDER_WAY = 16  # scores arrive some steps after their version; no more sweeps than these are waited for


@dataclass(slots=True)
class Turn:
    """What to do after a step."""

    reset: str = ""  # the trigger that fired, or "stage"; empty: no reset
    stage: bool = False  # another stage begins


class Schedule:
    """The run's stages and triggers. `stage` and `resets` are part of every checkpoint."""

    def __init__(self, cfg: Config, stage: StageState, resets: ResetState) -> None:
        self.stage, self.resets = stage, resets
        self._run = cfg
        self._configs = staged_configs(cfg)
        self._steps = total_steps(cfg)

    @property
    def cfg(self) -> Config:
        """The configuration of the present stage; after the last one, still that of the last."""
        return self._configs[min(self.stage.index, len(self._configs) - 1)]

    def ended(self, version: int) -> bool:
        """Whether the run is over at `version`."""
        return version >= self._steps or (bool(self._run.stages) and self.stage.index >= len(self._run.stages))

    def turn(self, seen: Evidence) -> Turn:
        """Take a step's evidence into account; the state is that of the next step then."""
        self.resets, reset = decide(self.resets, seen, self.cfg.reference)
        stage = next_stage(self.stage, self._run.stages, version=seen.version, fired=reset != "", score=seen.score)
        changed = stage != self.stage
        self.stage = stage
        if self.ended(seen.version):
            return Turn()
        if changed and not reset and self._run.stages[stage.index].reset:
            reset = "stage"
        if reset:
            self.resets = after_reset(self.resets, seen.version)
        return Turn(reset=reset, stage=changed)

    def protected(self) -> frozenset[int]:
        """Versions whose checkpoints a reset to the best may need: the best so far, and those whose sweep is not in yet."""
        every, newest = self._run.validation.every, self.resets.scored
        if not any(cfg.reference.source is ResetSource.best for cfg in self._configs):
            return frozenset()
        waiting = range(newest - newest % every + every, newest + SWEEPS_UNDER_WAY * every, every)
        return frozenset({self.resets.record_version, *waiting})


def evidence_of(batch: Batch, metrics: dict[str, float], version: int) -> Evidence:
    """What the step that made `version` of `batch` has to say to triggers and targets."""
    scores = [(score.version, score.mean) for score in batch.validation if score.setting == SETTING]
    return Evidence(
        version=version,
        kl=metrics.get("reference/kl", 0.0),
        score=max(scores, default=None),
        asked=batch.reset_requested,
    )


def turns_of(cfg: Config, records: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Turn]]:
    """(version, turn) of every step of a recorded run, from its metrics alone."""
    schedule = Schedule(cfg, StageState(), ResetState())
    for record in records:
        version, mean = record.get(f"validation/{SETTING}/version"), record.get(f"validation/{SETTING}/mean")
        seen = Evidence(
            version=record["step"],
            kl=record["reference/kl"] or 0.0,
            score=None if version is None or mean is None else (int(version), mean),
            asked=bool(record.get("reference/asked")),
        )
        yield record["step"], schedule.turn(seen)
