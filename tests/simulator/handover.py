"""What simulated actors have of rollouts that another one began: of a token, its version and its actor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from random import Random

from prolong.common.types import (
    FinishReason,
    Rollout,
    StartedRollout,
    Ticket,
    Verdict,
    VerdictStatus,
    VersionSpan,
)

from .plan import TOKENS

Token = tuple[int, str]  # version, actor


def verdict_on(index: int, *, signal: bool = True) -> Verdict:
    reward = 1.0 if index == 0 or not signal else 0.0
    return Verdict(reward=reward, status=VerdictStatus.ok, verifier="none", seconds=0.0)


def tokens_of(rollout: StartedRollout) -> list[Token]:
    return [(span.version, span.actor) for span in rollout.spans for _ in range(span.start, span.end)]


def spans_of(tokens: Sequence[Token]) -> list[VersionSpan]:
    spans: list[VersionSpan] = []
    for (version, actor), run in groupby(tokens):
        start = spans[-1].end if spans else 0
        spans.append(VersionSpan(version=version, start=start, end=start + len(list(run)), actor=actor))
    return spans


def grown(begun: Sequence[Token], versions: Sequence[int], length: int, actor: str) -> list[Token]:
    """`begun`, and tokens up to `length` that were sampled under `versions`: the first, then the newest of the others."""
    room = length - len(begun)
    if room <= 0:
        return list(begun)
    lived = [versions[0], *versions[1:][-(room - 1) :]] if room > 1 else [versions[-1]]
    lived += [lived[-1]] * (room - len(lived))
    return [*begun, *((version, actor) for version in lived)]


def hand_over(ticket: Ticket, versions: Sequence[int], actor: str, rng: Random) -> list[StartedRollout]:
    """What there is of a ticket's rollouts: some have not begun, some have ended, some of those are judged."""
    before = {rollout.index: rollout for rollout in ticket.started}
    started: list[StartedRollout] = []
    for index in range(ticket.sampling.n):
        begun = before.get(index)
        if begun is not None and begun.finish_reason is not None:
            started.append(begun)
            continue
        length = rng.randint(0, TOKENS)
        tokens = grown([] if begun is None else tokens_of(begun), versions, length, actor)
        if not tokens:
            continue
        ended = len(tokens) == TOKENS or rng.random() < 0.2
        started.append(
            StartedRollout(
                index=index,
                token_ids=bytes(4 * len(tokens)),
                behaviour_logprobs=bytes(4 * len(tokens)),
                spans=spans_of(tokens),
                finish_reason=FinishReason.stop if ended else None,
                verdict=verdict_on(index) if ended and rng.random() < 0.5 else None,
            )
        )
    return started


def finished(ticket: Ticket, versions: Sequence[int], *, signal: bool) -> list[Rollout]:
    """The rollouts of a ticket that was handed over, once another actor has gone on with it."""
    before = {rollout.index: rollout for rollout in ticket.started}
    rollouts: list[Rollout] = []
    for index in range(ticket.sampling.n):
        begun = before.get(index)
        ended = begun is not None and begun.finish_reason is not None
        tokens = [] if begun is None else tokens_of(begun)
        if not ended:
            tokens = grown(tokens, versions, TOKENS, "")
        known = None if begun is None else begun.verdict
        rollouts.append(
            Rollout(
                token_ids=bytes(4 * len(tokens)),
                behaviour_logprobs=bytes(4 * len(tokens)),
                spans=spans_of(tokens),
                finish_reason=FinishReason.stop,
                verdict=known or verdict_on(index, signal=signal),
            )
        )
    return rollouts
