"""What makes a group unfit whatever its age: numbers that are none, and parts that contradict each other.

The actor's own mistakes end here, with a reason in the acknowledgement: a group that was merely dropped would hold its ticket
until the lease ends.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..common.types import Group, Rollout, float32_array, int32_array

MAX_LOGPROB = 1e-3  # log-probabilities are at most 0; a softmax in float32 may round this far above it


class Flaw(NamedTuple):
    """Why a group cannot be used."""

    kind: str  # what it is counted as: buffer/flawed_KIND
    why: str  # one line for the actor's log


def flaw_of(group: Group) -> Flaw | None:
    """The first thing that is wrong with a group of either kind; None when nothing is. A reward may be missing."""
    if not math.isfinite(group.seconds):
        return Flaw("nonfinite", f"it took {group.seconds} seconds")
    if len(group.rollouts) > group.sampling.n:
        return Flaw("malformed", f"{len(group.rollouts)} rollouts, {group.sampling.n} were asked for")
    for index, rollout in enumerate(group.rollouts):
        if flaw := _rollout_flaw(rollout, group.sampling.max_tokens):
            return _of(index, flaw)
    if _numbers_flaw(group.rollouts):  # all at once: a call of NumPy costs as much as the rest of a rollout's check
        return next(_of(i, flaw) for i, rollout in enumerate(group.rollouts) if (flaw := _numbers_flaw([rollout])))
    return None


def _of(index: int, flaw: Flaw) -> Flaw:
    return Flaw(flaw.kind, f"rollout {index}: {flaw.why}")


def _rollout_flaw(rollout: Rollout, max_tokens: int) -> Flaw | None:
    """Lengths, spans and reward of one rollout."""
    num_bytes, num_tokens = len(rollout.token_ids), rollout.num_tokens
    if not num_bytes or num_bytes % 4:
        return Flaw("malformed", f"token ids of {num_bytes} bytes, expected a positive multiple of 4 (int32)")
    if num_tokens > max_tokens:
        return Flaw("malformed", f"{num_tokens} tokens, at most {max_tokens} were asked for")
    if len(rollout.behaviour_logprobs) != num_bytes:
        got = f"{len(rollout.behaviour_logprobs)} bytes of log-probabilities for {num_tokens} tokens"
        return Flaw("malformed", f"{got}, expected {num_bytes}")
    covered = 0
    for span in rollout.spans:
        if span.start != covered or span.end <= span.start:
            return Flaw("malformed", f"span [{span.start}, {span.end}) after token {covered}, expected no gap and no overlap")
        covered = span.end
    if covered != num_tokens:
        return Flaw("malformed", f"version spans cover [0, {covered}), expected [0, {num_tokens})")
    reward = rollout.verdict.reward
    if reward is not None and not math.isfinite(reward):
        return Flaw("nonfinite", f"reward {reward}, expected a finite number")
    return None


def _numbers_flaw(rollouts: list[Rollout]) -> Flaw | None:
    """Token ids and log-probabilities of rollouts whose lengths are right."""
    if not rollouts:
        return None
    logprobs = float32_array(b"".join(rollout.behaviour_logprobs for rollout in rollouts))
    if not np.isfinite(logprobs).all():
        return Flaw("nonfinite", "a log-probability that is not finite")
    if logprobs.max() > MAX_LOGPROB:
        return Flaw("positive", f"a log-probability of {logprobs.max():g}, expected at most 0")
    if int32_array(b"".join(rollout.token_ids for rollout in rollouts)).min() < 0:
        return Flaw("malformed", "a negative token id, expected 0 or more")
    return None
