"""Spans of versions from segments between pauses."""

from __future__ import annotations

import pytest
from prolong.actor.engines.vllm.segments import decode_spans, encode_segments
from prolong.common.types import VersionSpan


def spans(*triples: tuple[int, int, int]) -> list[VersionSpan]:
    return [VersionSpan(version=version, start=start, end=end) for version, start, end in triples]


@pytest.mark.parametrize(
    ("segments", "num_tokens", "expected"),
    [
        ([(1, 0)], 5, spans((10, 0, 5))),
        ([(1, 0), (2, 3)], 5, spans((10, 0, 3), (11, 3, 5))),
        ([(1, 0), (2, 0)], 5, spans((11, 0, 5))),  # updated before its first token
        ([(1, 0), (2, 5)], 5, spans((10, 0, 5))),  # updated after its last token
        ([(1, 0), (2, 3), (3, 3)], 5, spans((10, 0, 3), (12, 3, 5))),  # two updates between two tokens
        ([(1, 0), (2, 2), (4, 3)], 5, spans((10, 0, 2), (11, 2, 5))),  # segment 4 holds version 11 again
    ],
)
def test_spans_cover_every_token_once_under_the_version_that_sampled_it(segments, num_tokens, expected):
    assert decode_spans(encode_segments(segments), {1: 10, 2: 11, 3: 12, 4: 11}, num_tokens) == expected


def test_a_segment_without_a_version_is_an_error():
    with pytest.raises(KeyError):
        decode_spans("1:0,7:2", {1: 10}, 5)
