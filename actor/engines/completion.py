"""The result of an engine for one rollout: tokens, log-probabilities, version spans. Pure: no vLLM, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...common.types import FinishReason, VersionSpan


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled completion, before decoding and verification."""

    token_ids: bytes  # [T] int32, without the prompt, with the stop token if there was one
    behaviour_logprobs: bytes  # [T] float32, of the distribution that each token was drawn from
    spans: list[VersionSpan]  # cover [0, T) in order, without gap or overlap
    finish_reason: FinishReason

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) // 4


# of a rollout that began with as many tokens as it may have
NOTHING_MORE = Completion(token_ids=b"", behaviour_logprobs=b"", spans=[], finish_reason=FinishReason.length)


def version_spans(starts: Sequence[tuple[int, int]], num_tokens: int) -> list[VersionSpan]:
    """Spans that cover [0, num_tokens) in order, from (version, first token) pairs with ascending first tokens.

    A version without tokens is left out, and neighbours of one version (a pause whose update failed) become one span.
    """
    ends = [*(start for _, start in starts), num_tokens][1:]
    spans: list[VersionSpan] = []
    for (version, start), end in zip(starts, ends, strict=True):
        if start == end:
            continue
        if spans and spans[-1].version == version:
            spans[-1] = VersionSpan(version=version, start=spans[-1].start, end=end)
        else:
            spans.append(VersionSpan(version=version, start=start, end=end))
    return spans
