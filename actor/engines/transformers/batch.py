"""The rollouts that run together, and one decoding step of all of them: continuous batching over a transformers model.

Rows have different lengths, and join and leave between any two steps. The cache of keys and values is aligned at its right
end: column -1 holds the newest cached token of every row, and columns left of a row's first token are padding that the
attention mask hides. A row that joins is padded on the left, a row that leaves is cut out, and columns that no row needs are
trimmed. The cache holds every token of a row except the last one, which is the input of the next step.

Knows no threads and no tickets' verdicts; `thread.py` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from ....common.types import FinishReason
from ..noise import uniforms
from ..stop_strings import StopStrings
from .sampling import Cuts, sample

FILL_TOKENS = 1 << 14  # tokens of one forward pass that fills the cache: bounds its memory


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One rollout in flight."""

    stream: int  # the call of `generate` that it belongs to
    index: int  # in its group
    seed: int
    temperature: float
    max_tokens: int  # of `token_ids`; more than there are
    prompt: list[int]
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: StopStrings | None = None  # texts that end it
    token_ids: list[int] = field(default_factory=list)  # sampled so far, the first ones by another actor
    logprobs: list[float] = field(default_factory=list)  # of those that are sampled here
    # (version, its first token of those that are sampled here), see `version_spans`
    starts: list[tuple[int, int]] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and completion so far."""
        return len(self.prompt) + len(self.token_ids)

    @property
    def last_token(self) -> int:
        return self.token_ids[-1] if self.token_ids else self.prompt[-1]

    def append(self, token: int, logprob: float, version: int, stop_ids: frozenset[int]) -> None:
        """Add a sampled token, and say whether it was the last."""
        if not self.starts or self.starts[-1][0] != version:
            self.starts.append((version, len(self.logprobs)))
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if token in stop_ids or (self.stop is not None and self.stop.complete(self.token_ids)):
            self.finish_reason = FinishReason.stop
        elif len(self.token_ids) == self.max_tokens:
            self.finish_reason = FinishReason.length


class RunningBatch:
    """Rows and their cached keys and values. Used by one thread at a time."""

    def __init__(self, model: PreTrainedModel, stop_ids: Sequence[int]) -> None:
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        self._cache = DynamicCache()
        self.rows: list[Row] = []

    @torch.no_grad()
    def add(self, rows: Sequence[Row]) -> None:
        """Let `rows` take part from the next step on. Equal beginnings are computed once."""
        beginnings = [tuple(row.prompt + row.token_ids) for row in rows]
        last = {beginning: i for i, beginning in enumerate(beginnings)}  # the last row of each beginning
        owners = sorted(last.values())
        places = {beginnings[owner]: place for place, owner in enumerate(owners)}
        filled = self._filled([rows[owner] for owner in owners])
        added = _select(filled, [places[beginning] for beginning in beginnings])
        self._cache = _join(self._cache, added) if self.rows else added
        self.rows.extend(rows)

    @torch.no_grad()
    def step(self, version: int) -> list[Row]:
        """Sample one token for every row under the weights of `version`. Returns the rows that ended; they are removed."""
        device = self._model.device
        lengths = torch.tensor([row.length for row in self.rows])
        width = self._cache.get_seq_length() + 1
        logits = self._model(
            input_ids=torch.tensor([[row.last_token] for row in self.rows], device=device),  # [B, 1]
            position_ids=(lengths - 1)[:, None].to(device),
            attention_mask=(torch.arange(width) >= width - lengths[:, None]).long().to(device),  # [B, width]
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        tokens, logprobs = self._sample(logits)
        for row, token, logprob in zip(self.rows, tokens, logprobs, strict=True):
            row.append(token, logprob, version, self._stop_ids)
        ended = [row for row in self.rows if row.finish_reason is not None]
        if ended:
            self.keep(lambda row: row.finish_reason is None)
        return ended

    def _sample(self, logits: Tensor) -> tuple[list[int], list[float]]:
        device, rows = logits.device, self.rows
        # the position of the token to be drawn is the length so far
        uniform = uniforms(np.array([row.seed for row in rows]), np.array([row.length for row in rows]))
        tokens, logprobs = sample(
            logits,
            torch.tensor([row.temperature for row in rows], device=device),
            Cuts(
                min_p=torch.tensor([row.min_p for row in rows], device=device),
                top_k=torch.tensor([row.top_k for row in rows], device=device),
                top_p=torch.tensor([row.top_p for row in rows], device=device),
            ),
            torch.from_numpy(uniform).to(device),
        )
        return tokens.tolist(), logprobs.tolist()

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop all other rows, and the columns that only they needed."""
        kept = [i for i, row in enumerate(self.rows) if wanted(row)]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in kept]
        if self.rows:
            self._cache = _select(self._cache, kept, columns=_columns(self.rows))
        else:
            self._cache = DynamicCache()

    @torch.no_grad()
    def recompute(self) -> None:
        """Compute all cached keys and values again, after the weights changed."""
        if self.rows:
            self._cache = self._filled(self.rows)

    def _filled(self, rows: Sequence[Row]) -> DynamicCache:
        """The cache of `rows`. Some rows at a time, so that a forward pass has at most FILL_TOKENS tokens (or one row)."""
        columns = _columns(rows)
        chunk = max(1, FILL_TOKENS // columns)
        parts = [self._fill(rows[i : i + chunk], columns) for i in range(0, len(rows), chunk)]
        if len(parts) == 1:
            return parts[0]
        return _cache_of(
            [
                tuple(torch.cat(tensors) for tensors in zip(*layers, strict=True))
                for layers in zip(*(_layers(part) for part in parts), strict=True)
            ]
        )

    def _fill(self, rows: Sequence[Row], columns: int) -> DynamicCache:
        """One forward pass over all tokens but the last of every row.

        Padding is on the right here: under the causal mask no token sees it, and no query is left without any key, which
        would give NaN. The result is then moved to the right end.
        """
        device = self._model.device
        token_ids = torch.zeros(len(rows), columns, dtype=torch.long)
        for i, row in enumerate(rows):
            cached = (row.prompt + row.token_ids)[:-1]
            token_ids[i, : len(cached)] = torch.tensor(cached, dtype=torch.long)
        cache = DynamicCache()
        positions = torch.arange(columns, device=device).expand(len(rows), -1)
        self._model(
            input_ids=token_ids.to(device), position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        shift = columns + 1 - torch.tensor([row.length for row in rows], device=device)  # [B]
        source = (torch.arange(columns, device=device) - shift[:, None]).clamp(min=0)  # [B, columns]
        return _cache_of(
            [
                tuple(tensor.gather(2, source[:, None, :, None].expand_as(tensor)) for tensor in layer)
                for layer in _layers(cache)
            ]
        )


def _columns(rows: Sequence[Row]) -> int:
    """Columns that the cache of `rows` needs; at least one, because an empty cache has no shape."""
    return max(1, max(row.length for row in rows) - 1)


def _layers(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """(keys, values) of every layer, [B, heads, columns, head size] each."""
    layers = []
    for keys, values, _ in cache:
        assert keys is not None
        assert values is not None
        layers.append((keys, values))
    return layers


def _cache_of(layers: list[tuple[Tensor, ...]]) -> DynamicCache:
    return DynamicCache(layers)


def _select(cache: DynamicCache, rows: list[int], columns: int | None = None) -> DynamicCache:
    """Those rows of the cache, in that order, with the last `columns` columns only."""
    start = 0 if columns is None else cache.get_seq_length() - columns
    return _cache_of([tuple(tensor[rows, :, start:] for tensor in layer) for layer in _layers(cache)])


def _join(one: DynamicCache, other: DynamicCache) -> DynamicCache:
    """The rows of both, padded on the left to the wider one's columns."""
    columns = max(one.get_seq_length(), other.get_seq_length())

    def padded(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, 0, columns - tensor.shape[2], 0))

    return _cache_of(
        [
            tuple(torch.cat([padded(ours), padded(theirs)]) for ours, theirs in zip(*layers, strict=True))
            for layers in zip(_layers(one), _layers(other), strict=True)
        ]
    )
