"""Both sides of the seam in a rollout that one actor began and another goes on with. Pure: no engine, no torch.

completion and verdict --started_rollout--> StartedRollout --TicketHandedOver--> buffer --Ticket.started--> another actor
StartedRollout + completion of the tokens behind it --continued--> completion of the whole rollout
"""

from __future__ import annotations

import msgspec

from ..common.types import FinishReason, StartedRollout, Ticket, Verdict, VersionSpan
from .engines.completion import Completion


def continued(begun: StartedRollout | None, completion: Completion) -> Completion:
    """The whole completion: what was `begun`, if anything, and what an engine sampled behind it."""
    if begun is None:
        return completion
    at = begun.num_tokens
    behind = [_moved(span, at) for span in completion.spans]
    return Completion(
        token_ids=bytes(begun.token_ids) + completion.token_ids,
        behaviour_logprobs=bytes(begun.behaviour_logprobs) + completion.behaviour_logprobs,
        spans=[*begun.spans, *behind],
        finish_reason=completion.finish_reason,
    )


def ended_before(ticket: Ticket) -> dict[int, Completion]:
    """The rollouts of a ticket that ended at an earlier actor, by index."""
    return {
        begun.index: Completion(
            token_ids=bytes(begun.token_ids),
            behaviour_logprobs=bytes(begun.behaviour_logprobs),
            spans=begun.spans,
            finish_reason=begun.finish_reason,
        )
        for begun in ticket.started
        if begun.finish_reason is not None
    }


def started_rollout(index: int, completion: Completion, verdict: Verdict | None, actor: str) -> StartedRollout:
    """What `actor` hands over of a rollout that it interrupted, or that ended. Spans without a name become its own."""
    ended = completion.finish_reason is not FinishReason.abort
    return StartedRollout(
        index=index,
        token_ids=completion.token_ids,
        behaviour_logprobs=completion.behaviour_logprobs,
        spans=[msgspec.structs.replace(span, actor=span.actor or actor) for span in completion.spans],
        finish_reason=completion.finish_reason if ended else None,
        verdict=verdict,
    )


def _moved(span: VersionSpan, by: int) -> VersionSpan:
    return msgspec.structs.replace(span, start=span.start + by, end=span.end + by)
