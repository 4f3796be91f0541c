"""When to reset the reference: triggers over the records of the steps. Source: ProRL, arXiv 2507.12507, section 3.3.

`decide` is a pure function: the same history gives the same resets, in a resumed run as in an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..common.config.algorithm import ReferenceConfig


class ResetState(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of the triggers, part of every checkpoint."""

    # resets so far, with or without a reference
    count: int = 0
    # version at which the last reset was made
    last: int = 0
    # best validation score since the last reset
    best: float | None = None
    # validation sweeps in a row, since the last reset, without a better score
    stalled: int = 0
    # best validation score of the whole run, and the version that reached it
    record: float | None = None
    record_version: int = -1
    # newest version with a score
    scored: int = -1


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one step that a trigger may look at."""

    # the version that the step made
    version: int
    # mean KL to the reference over the step's tokens, nats
    kl: float = 0.0
    # (version, mean) of the newest validation sweep that arrived with the step's batch
    score: tuple[int, float] | None = None
    # whether a reset was requested by hand: `prolong reset`
    asked: bool = False
    # the numbers of the step's record, for alerts
    numbers: Mapping[str, float | None] = {}


def decide(state: ResetState, seen: Evidence, cfg: ReferenceConfig) -> tuple[ResetState, str]:
    """Return the state after a step and the trigger that fired: asked, every, kl, plateau, drop, or "" for none.

    The state's `last` does not change here: call `after_reset` once the reset has been made.
    """
    if seen.score is not None:
        state = _note_score(state, *seen.score, cfg)
    if seen.asked:
        return state, "asked"
    since = seen.version - state.last
    if since <= cfg.cooldown:
        return state, ""
    if 0 < cfg.reset_every <= since:
        return state, "every"
    if 0 < cfg.kl_above < seen.kl:
        return state, "kl"
    if 0 < cfg.plateau <= state.stalled:
        return state, "plateau"
    latest = seen.score[1] if seen.score is not None and seen.score[0] >= state.last else None
    if cfg.drop > 0 and latest is not None and state.best is not None and latest < state.best - cfg.drop:
        return state, "drop"
    return state, ""


def _note_score(state: ResetState, version: int, score: float, cfg: ReferenceConfig) -> ResetState:
    """Take a sweep's score into account; a score from before the last reset counts for the run's record only."""
    state = msgspec.structs.replace(state, scored=max(state.scored, version))
    if state.record is None or score > state.record:
        state = msgspec.structs.replace(state, record=score, record_version=version)
    if version < state.last:
        return state
    if state.best is None or score > state.best + cfg.min_delta:
        return msgspec.structs.replace(state, best=score, stalled=0)
    return msgspec.structs.replace(state, stalled=state.stalled + 1)


def after_reset(state: ResetState, version: int) -> ResetState:
    """Return the state after a reset at `version`."""
    return msgspec.structs.replace(state, count=state.count + 1, last=version, best=None, stalled=0)
