"""How the texts that end a rollout reach vLLM's process: in a request's `extra_args`, which vLLM hands through.

vLLM's own stop strings need its tokenizer and an output per token, and neither is there. Pure: no vLLM, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..stop_strings import StopStrings, stop_strings

_KEY = "prolong_stop"


def encode_stop(path: str, texts: tuple[str, ...], num_begun: int = 0) -> dict[str, list[str]] | None:
    """The extra arguments of a request that one of `texts` ends; `path`: the model, whose tokenizer decodes.

    `num_begun`: how many tokens at the end of the request's prompt are of the completion.
    """
    return {_KEY: [str(num_begun), path, *texts]} if texts else None


def decode_stop(extra: Mapping[str, Sequence[str]] | None) -> tuple[StopStrings, int] | None:
    """The texts and `num_begun` that `encode_stop` wrote, in vLLM's process."""
    if not extra or _KEY not in extra:
        return None
    num_begun, path, *texts = extra[_KEY]
    return stop_strings(path, tuple(texts)), int(num_begun)
