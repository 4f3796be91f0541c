"""What the engine gives for one rollout, and how the version spans of its tokens are found. Pure: no vLLM, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...common.types import FinishReason, VersionSpan


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled completion, before decoding and verification."""

    token_ids: bytes  # [T] int32, without the prompt, with the stop token if there was one
    behaviour_logprobs: bytes  # [T] float32, of the tempered distribution
    spans: list[VersionSpan]  # cover [0, T)
    finish_reason: FinishReason

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) // 4


def encode_segments(segments: list[tuple[int, int]]) -> str:
    """(segment, first token) pairs as "0:0,2:17"; a segment is the time between two pauses of the engine."""
    return ",".join(f"{segment}:{start}" for segment, start in segments)


def decode_spans(text: str, versions: Mapping[int, int], num_tokens: int) -> list[VersionSpan]:
    """Spans that cover [0, num_tokens) in order, without gap or overlap; `versions` maps a segment to its policy version.

    Segments without tokens vanish, and neighbours of one version (a pause whose update failed) become one span.
    Raises KeyError for a segment that `versions` does not know.
    """
    starts = [(versions[int(segment)], int(start)) for segment, start in (pair.split(":") for pair in text.split(","))]
    ends = [start for _, start in starts[1:]] + [num_tokens]
    spans: list[VersionSpan] = []
    for (version, start), end in zip(starts, ends, strict=True):
        if start == end:
            continue
        if spans and spans[-1].version == version:
            spans[-1] = VersionSpan(version=version, start=spans[-1].start, end=end)
        else:
            spans.append(VersionSpan(version=version, start=start, end=end))
    return spans
