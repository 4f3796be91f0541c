"""How the weights of every token are named on the way out of vLLM's engine process, and how all requests are on the way in.

A segment is the time between two pauses of the engine, counted from 0; weights change only inside a pause, so the segment in
which a token was sampled names its weights. `scheduler.py` notes the segments of a rollout, and `engine.py` knows which policy
version each segment had. Pure: no vLLM, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from ....common.types import VersionSpan
from ..completion import version_spans

# stands for all requests where those to be aborted are named: the outputs of these hold what they have
INTERRUPT = "prolong: interrupt"


def encode_segments(segments: list[tuple[int, int]]) -> str:
    """(segment, first token) pairs as "0:0,2:17"."""
    return ",".join(f"{segment}:{start}" for segment, start in segments)


def decode_spans(text: str, versions: Mapping[int, int], num_tokens: int) -> list[VersionSpan]:
    """Version spans that cover [0, num_tokens), from what `encode_segments` wrote; `versions` maps segment to version.

    Raises KeyError for a segment that `versions` does not know.
    """
    pairs = (pair.split(":") for pair in text.split(","))
    return version_spans([(versions[int(segment)], int(start)) for segment, start in pairs], num_tokens)
