"""What went into a step: in what two batches of the same version differ, in the order in which the learner reads them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from ...common.types import Batch, Group, Rollout, ValidationScore, float32_array, int32_array
from .compare import Difference

Sides = tuple[str, str]  # what the one has, and the other instead


def compare_batches(left: Batch, right: Batch) -> Difference | None:
    """The first thing that differs. Who generated a group and how long that took is no part of it."""
    found = next(_differences(left, right), None)
    if found is None:
        return None
    where, (one, other) = found
    return Difference(step=left.version + 1, what=f"the batch differs: {where}", left=one, right=other)


def _differences(left: Batch, right: Batch) -> Iterator[tuple[str, Sides]]:
    for i, (ours, theirs) in enumerate(zip_longest(left.groups, right.groups), start=1):
        if sides := _compare_groups(ours, theirs):
            yield f"group {i}", sides
    for score, other in zip_longest(left.validation, right.validation):
        if score != other:
            yield "validation score", (_score(score), _score(other))
    if left.reset_requested != right.reset_requested:
        yield "reset asked for", (str(left.reset_requested), str(right.reset_requested))


def _compare_groups(left: Group | None, right: Group | None) -> Sides | None:
    if left is None or right is None or (left.ordinal, left.prompt) != (right.ordinal, right.prompt):
        return _ticket(left), _ticket(right)
    if left.sampling != right.sampling:
        return f"{_ticket(left)} with {left.sampling}", f"{right.sampling}"
    if len(left.rollouts) != len(right.rollouts):
        return f"{_ticket(left)} with {len(left.rollouts)} rollouts", f"{len(right.rollouts)}"
    for i, (ours, theirs) in enumerate(zip(left.rollouts, right.rollouts, strict=True)):
        if found := _compare_rollouts(ours, theirs):
            what, (one, other) = found
            return f"{_ticket(left)}, rollout {i}: {what} {one}", other
    return None


def _compare_rollouts(left: Rollout, right: Rollout) -> tuple[str, Sides] | None:
    arrays = (
        ("token", int32_array(left.token_ids), int32_array(right.token_ids)),
        ("behaviour log-probability", float32_array(left.behaviour_logprobs), float32_array(right.behaviour_logprobs)),
    )
    for what, ours, theirs in arrays:
        for i, (one, other) in enumerate(zip_longest(ours.tolist(), theirs.tolist())):
            if one != other:
                return f"{what} {i}", (_or_end(one), _or_end(other))
    if left.verdict.reward != right.verdict.reward:
        return "reward", (str(left.verdict.reward), str(right.verdict.reward))
    if left.finish_reason != right.finish_reason:
        return "end", (left.finish_reason.value, right.finish_reason.value)
    if left.spans != right.spans:
        return "versions", (_spans(left), _spans(right))
    return None


def _or_end(value: Any) -> str:
    return "the end" if value is None else str(value)


def _ticket(group: Group | None) -> str:
    if group is None:
        return "no group"
    prompt = group.prompt
    return f"prompt {prompt.domain}/{prompt.task} {prompt.uid} of ticket {group.ordinal}"


def _score(score: ValidationScore | None) -> str:
    return "none" if score is None else f"{score.mean} of version {score.version}, {score.setting}"


def _spans(rollout: Rollout) -> str:
    return ", ".join(f"{span.version} for tokens {span.start} to {span.end}" for span in rollout.spans)
