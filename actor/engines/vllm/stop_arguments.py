"""How the texts that end a rollout reach vLLM's process: in a request's `extra_args`, which vLLM hands through.

vLLM's own stop strings need its tokenizer and an output per token, and neither is there. Pure: no vLLM, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..stop_strings import StopStrings, stop_strings

_KEY = "prolong_stop"


def encode_stop(path: str, texts: tuple[str, ...]) -> dict[str, list[str]] | None:
    """The extra arguments of a request that one of `texts` ends; `path`: the model, whose tokenizer decodes."""
    return {_KEY: [path, *texts]} if texts else None


def decode_stop(extra: Mapping[str, Sequence[str]] | None) -> StopStrings | None:
    """What `encode_stop` wrote, in vLLM's process."""
    if not extra or _KEY not in extra:
        return None
    path, *texts = extra[_KEY]
    return stop_strings(path, tuple(texts))
