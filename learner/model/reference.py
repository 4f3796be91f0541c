"""The frozen policy of the KL term, and the decision when to replace it (ProRL, arXiv 2507.12507, section 3.3).

`decide` is a pure function of what was recorded: the same history gives the same resets, in a resumed run as in an
uninterrupted one. Its state is part of every checkpoint.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from ...common.config.algorithm import ReferenceConfig
from ..batches.packing import MicroBatch
from .policy import Policy


class Reference:
    """A frozen copy of the policy. `epoch` counts its resets; it and the weights are part of every checkpoint."""

    def __init__(self, frozen: Policy, epoch: int = 0) -> None:
        self.policy = frozen
        self.epoch = epoch

    @torch.no_grad()
    def logprobs(self, micro: MicroBatch) -> Tensor:
        """Tempered log-probabilities [M] of the micro-batch's tokens under the reference."""
        return self.policy.logprobs(micro)[0]

    @torch.no_grad()
    def reset(self, current: Policy) -> None:
        """reference <- current policy: right after it KL(policy, reference) is exactly 0. Shards stay where they are."""
        for mine, theirs in zip(self.policy.parameters(), current.parameters(), strict=True):
            mine.copy_(theirs)
        self.epoch += 1


class ResetState(msgspec.Struct, frozen=True, kw_only=True):
    """What the triggers remember. `best` and `stalled` are of the time since the last reset, `record` is of the whole run."""

    count: int = 0  # resets so far, of whatever they reset
    last: int = 0  # version of the last one
    best: float | None = None  # best validation score since
    stalled: int = 0  # sweeps in a row that were no better
    record: float | None = None  # best validation score of the run
    record_version: int = -1  # the version that it is of
    scored: int = -1  # newest version that has a score


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What one step recorded that a trigger may look at."""

    version: int  # made by the step
    kl: float = 0.0  # mean KL to the reference over the step's tokens
    score: tuple[int, float] | None = None  # (version, mean) of the newest validation sweep that arrived with its batch
    asked: bool = False  # by hand: `prolong reset`


def decide(state: ResetState, seen: Evidence, cfg: ReferenceConfig) -> tuple[ResetState, str]:
    """The state after a step, and the trigger that fired: asked, every, kl, plateau, drop, or "" for none.

    A trigger that fires does not change `last`: `after_reset` does, when the reset was made.
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
    """A sweep's score; one of a version before the last reset says nothing about the time after it."""
    state = msgspec.structs.replace(state, scored=max(state.scored, version))
    if state.record is None or score > state.record:
        state = msgspec.structs.replace(state, record=score, record_version=version)
    if version < state.last:
        return state
    if state.best is None or score > state.best + cfg.min_delta:
        return msgspec.structs.replace(state, best=score, stalled=0)
    return msgspec.structs.replace(state, stalled=state.stalled + 1)


def after_reset(state: ResetState, version: int) -> ResetState:
    """The state once a reset was made at `version`."""
    return msgspec.structs.replace(state, count=state.count + 1, last=version, best=None, stalled=0)
