"""Where a run is in its stages: a pure function of what was recorded. common/config/stages.py says what a stage changes."""

from __future__ import annotations

import msgspec

from ..common.config.algorithm import StageConfig


class StageState(msgspec.Struct, frozen=True, kw_only=True):
    """The stage that the next step belongs to; `index` = number of stages: the last one has ended, and the run with it."""

    index: int = 0
    started: int = 0  # version at which it began


def next_stage(
    state: StageState, stages: list[StageConfig], *, version: int, fired: bool, score: tuple[int, float] | None
) -> StageState:
    """The state after the step that made `version`.

    `fired`: a trigger of `reference` did. `score`: (version, mean) of the validation sweep that arrived with the step; one of a
    version before the stage says nothing about its target.
    """
    if state.index >= len(stages):
        return state
    stage = stages[state.index]
    full = 0 < stage.steps <= version - state.started
    reached = score is not None and score[0] >= state.started and 0 < stage.target <= score[1]
    if full or reached or (stage.on_trigger and fired):
        return StageState(index=state.index + 1, started=version)
    return state
