"""Checks that a group must pass before it is stored: finite numbers, consistent lengths, no more than the ticket asked for.

What an actor hands over when it leaves must pass them too, before another one goes on with it.

A group that passes is at most about as large as its ticket allows (n rollouts of `max_tokens`): B of them are a batch, which
must fit into one message. A group that fails is acknowledged with the reason, and its prompt is issued again at once; if it
were only dropped, its ticket would wait until the lease ends.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from ...common.types import (
    MAX_DETAIL,
    FinishReason,
    Group,
    Rollout,
    StartedRollout,
    Ticket,
    Verdict,
    float32_array,
    int32_array,
)

# log-probabilities are at most 0; a softmax in float32 may round this far above it
MAX_LOGPROB = 1e-3
MAX_WORD = 256  # characters of a name
MAX_METRICS = 256  # numbers of a verdict
MAX_NUMBER = 1e18  # of a reward or of seconds: sums and squares of such numbers are finite, in float32 too


class Defect(NamedTuple):
    """The reason why a group cannot be used."""

    kind: str  # counted as buffer/flawed_KIND
    why: str  # one line, for the actor's log


def group_defect(group: Group, model_ids: int | None) -> Defect | None:
    """The first defect of a group, for training or validation; None when there is none. A reward may be missing.

    `model_ids`: number of token ids that the model knows; None: unknown, and not checked.
    """
    if not abs(group.seconds) <= MAX_NUMBER:
        return Defect("nonfinite", f"it took {group.seconds} seconds")
    num_rollouts = len(group.rollouts) + group.dropped_rollouts
    if group.dropped_rollouts < 0 or num_rollouts > group.sampling.n:
        got = f"{len(group.rollouts)} rollouts"
        if group.dropped_rollouts:
            got += f" and {group.dropped_rollouts} dropped"
        return Defect("malformed", f"{got}, {group.sampling.n} were asked for")
    if max(len(group.actor), len(group.setting)) > MAX_WORD:
        return Defect("oversized", f"names of {len(group.actor)} and {len(group.setting)} characters, at most {MAX_WORD}")
    for index, rollout in enumerate(group.rollouts):
        defect = _rollout_defect(rollout, group.sampling.max_tokens) or _verdict_defect(rollout.verdict)
        if defect is not None:
            return _in_rollout(index, defect)
    # all rollouts in one call: a call of NumPy costs as much as the other checks of a rollout
    if _number_defect(group.rollouts, model_ids) is None:
        return None
    found = ((index, _number_defect([rollout], model_ids)) for index, rollout in enumerate(group.rollouts))
    return next(_in_rollout(index, defect) for index, defect in found if defect is not None)


def version_defect(group: Group, oldest: int, newest: int) -> Defect | None:
    """A defect when tokens are of versions that the actor cannot have held.

    A wrong version would break the staleness bound silently (AReaL #1569).
    """
    if group.oldest_version >= oldest and group.newest_version <= newest:
        return None
    return Defect("versions", f"versions {group.oldest_version}..{group.newest_version} are not in {oldest}..{newest}")


def names_defect(rollouts: Sequence[Rollout | StartedRollout], known: Collection[str]) -> Defect | None:
    """A defect when spans name an actor that is not `known` to have worked on the ticket."""
    named = {span.actor for rollout in rollouts for span in rollout.spans}
    unknown = sorted(named - set(known))
    return Defect("actors", f"tokens of {unknown[0]!r:.200}, which did not work on this ticket") if unknown else None


def actors_of(ticket: Ticket) -> set[str]:
    """The actors that sampled what was handed over of a ticket."""
    return {span.actor for rollout in ticket.started for span in rollout.spans}


def sampled_since(rollouts: Sequence[Rollout | StartedRollout], actor: str, version: int, *, finished_by: str = "") -> bool:
    """Whether tokens are of `actor` and of `version` or later; spans without a name are of `finished_by`."""
    spans = (span for rollout in rollouts for span in rollout.spans)
    return any(span.version >= version and (span.actor or finished_by) == actor for span in spans)


def handover_defect(
    started: Sequence[StartedRollout], ticket: Ticket, actor: str, newest: int, model_ids: int | None
) -> Defect | None:
    """The first defect of what `actor` hands over of `ticket`, at head `newest`; None when another one can go on with it."""
    indices = [rollout.index for rollout in started]
    if len(set(indices)) != len(indices) or not all(0 <= index < ticket.sampling.n for index in indices):
        return Defect("malformed", f"rollouts {indices[:20]}, expected different ones of 0 to {ticket.sampling.n - 1}")
    for rollout in started:
        defect = _started_defect(rollout, ticket, newest)
        if defect is not None:
            return _in_rollout(rollout.index, defect)
    known = actors_of(ticket) | {actor}
    return names_defect(started, known) or _number_defect(started, model_ids) or _continuation_defect(started, ticket)


def _started_defect(rollout: StartedRollout, ticket: Ticket, newest: int) -> Defect | None:
    ended = rollout.finish_reason is not None
    if rollout.finish_reason is FinishReason.abort or (rollout.verdict is not None and not ended):
        verdict = "a verdict" if rollout.verdict else "no verdict"
        return Defect("malformed", f"it ended with {rollout.finish_reason}, and has {verdict}")
    # one that has not ended has a token to come
    defect = _rollout_defect(rollout, ticket.sampling.max_tokens if ended else ticket.sampling.max_tokens - 1)
    if defect is None and rollout.verdict is not None:
        defect = _verdict_defect(rollout.verdict)
    if defect is not None:
        return defect
    versions = [span.version for span in rollout.spans]
    if min(versions) < ticket.version or max(versions) > newest:
        return Defect("versions", f"versions {min(versions)}..{max(versions)} are not in {ticket.version}..{newest}")
    return None


def _continuation_defect(started: Sequence[StartedRollout], ticket: Ticket) -> Defect | None:
    """A defect unless each rollout begins with what earlier actors handed over of it."""
    now = {rollout.index: rollout for rollout in started}
    for before in ticket.started:
        rollout = now.get(before.index)
        if rollout is None or rollout.token_ids[: len(before.token_ids)] != before.token_ids:
            return Defect("malformed", f"rollout {before.index} does not begin with the tokens that it was handed over with")
    return None


def _in_rollout(index: int, defect: Defect) -> Defect:
    return Defect(defect.kind, f"rollout {index}: {defect.why}")


def _rollout_defect(rollout: Rollout | StartedRollout, max_tokens: int) -> Defect | None:
    """Check the lengths and version spans of one rollout."""
    num_bytes, num_tokens = len(rollout.token_ids), rollout.num_tokens
    if not num_bytes or num_bytes % 4:
        return Defect("malformed", f"token ids of {num_bytes} bytes, expected a positive multiple of 4 (int32)")
    if num_tokens > max_tokens:
        return Defect("malformed", f"{num_tokens} tokens, at most {max_tokens} were asked for")
    if len(rollout.behaviour_logprobs) != num_bytes:
        got = f"{len(rollout.behaviour_logprobs)} bytes of log-probabilities for {num_tokens} tokens"
        return Defect("malformed", f"{got}, expected {num_bytes}")
    covered = 0
    for span in rollout.spans:
        if span.start != covered or span.end <= span.start:
            return Defect("malformed", f"span [{span.start}, {span.end}) after token {covered}, expected no gap and no overlap")
        covered = span.end
    if covered != num_tokens:
        return Defect("malformed", f"version spans cover [0, {covered}), expected [0, {num_tokens})")
    return None


def _verdict_defect(verdict: Verdict) -> Defect | None:
    """Check the numbers and the sizes of one verdict."""
    if not (abs(verdict.seconds) <= MAX_NUMBER and abs(verdict.reward or 0.0) <= MAX_NUMBER):
        got = f"reward {verdict.reward} after {verdict.seconds} seconds"
        return Defect("nonfinite", f"{got}, expected finite numbers of at most {MAX_NUMBER:g}")
    if len(verdict.detail) > MAX_DETAIL or len(verdict.metrics) > MAX_METRICS:
        got = f"a detail of {len(verdict.detail)} characters and {len(verdict.metrics)} metrics"
        return Defect("oversized", f"{got}, at most {MAX_DETAIL} and {MAX_METRICS}")
    if (
        len(verdict.status) > MAX_WORD
        or len(verdict.verifier) > MAX_WORD
        or any(len(name) > MAX_WORD for name in verdict.metrics)
    ):
        longest = max(map(len, (verdict.status, verdict.verifier, *verdict.metrics)))
        return Defect("oversized", f"a verdict with a name of {longest} characters, at most {MAX_WORD}")
    return None


def _number_defect(rollouts: Sequence[Rollout | StartedRollout], model_ids: int | None) -> Defect | None:
    """Check the token ids and log-probabilities of rollouts whose lengths are right."""
    if not rollouts:
        return None
    logprobs = float32_array(b"".join([rollout.behaviour_logprobs for rollout in rollouts]))
    # one that is not a number is the maximum, and not at most anything
    if not (logprobs.max() <= MAX_LOGPROB and logprobs.min() > -np.inf):
        if not np.isfinite(logprobs).all():
            return Defect("nonfinite", "a log-probability that is not finite")
        return Defect("positive", f"a log-probability of {logprobs.max():g}, expected at most 0")
    token_ids = int32_array(b"".join([rollout.token_ids for rollout in rollouts]))
    # read as unsigned, a negative id is above all others
    largest = int(token_ids.view(np.uint32).max())
    if largest >= 1 << 31:
        return Defect("malformed", "a negative token id, expected 0 or more")
    # the learner would look for a row that its embedding does not have
    if model_ids is not None and largest >= model_ids:
        return Defect("vocabulary", f"token id {largest}, the model knows ids below {model_ids} only")
    return None
