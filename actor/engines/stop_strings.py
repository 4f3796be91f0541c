"""Texts that end a rollout (`Sampling.stop`), looked for in the text of its tokens as they are sampled.

Engines know tokens alone; a text may begin and end inside tokens. So the newest tokens are decoded, as many as the longest text
can take, and the rollout ends with the token that completes a text. Most tokens cannot complete one, and cost a look into a
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ...common.tokenizer import Tokenizer

# tokens that decode to nothing may lie between those of a text, and the first one of a window may lose its space
_SPARE = 4
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # of a token that ends inside a character


class StopStrings:
    """Decides whether a rollout ends. Without state of its own: a rollout that is preempted or continued is asked the same."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self._tokenizer, self._texts = tokenizer, tuple(texts)
        # a token that decodes to anything holds at least one byte
        self.window = max(len(text.encode()) for text in texts) + _SPARE
        self._last = {text[-1] for text in texts}
        self._may_end: dict[int, bool] = {}

    def complete(self, token_ids: Sequence[int]) -> bool:
        """Whether one of the texts is complete with the last token of [T] sampled so far, T >= 1; the last `window` will do."""
        if not self._can_end(token_ids[-1]):
            return False
        written = self._tokenizer.decode(list(token_ids[-self.window :]))
        return any(text in written for text in self._texts)

    def _can_end(self, token_id: int) -> bool:
        """Whether the token holds the last character of a text, or a part of a character."""
        known = self._may_end.get(token_id)
        if known is None:
            # twice, because the first token of a text may lose its space
            written = self._tokenizer.decode([token_id, token_id])
            known = self._may_end[token_id] = not written or _BROKEN in written or any(last in written for last in self._last)
        return known


@cache
def stop_strings(path: str, texts: tuple[str, ...]) -> StopStrings:
    """The texts for the tokenizer of the model at `path`. Raises ModelError when it cannot be read."""
    return StopStrings(_tokenizer(path), texts)


@cache
def _tokenizer(path: str) -> Tokenizer:
    return Tokenizer.load(path)
