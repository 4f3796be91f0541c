"""Decoding of many short rollouts at once, without the general engine's overhead: what a run of `lockstep.py` samples with.

All rows are at the same position: a row whose prompt is longer than the shortest one goes through the rest of it token by
token, so that no row is padded and no mask is needed. The sampling law and its noise are those of `actor/engines/api.py`, for
sampling without cuts; tests/unit/bench/test_lockstep.py holds it against the transformers engine.
Knows one architecture, that of the demo's model: Qwen3 in float32, without scaled positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, Qwen3Config

from ..actor.engines.noise import uniforms
from ..actor.engines.transformers.sampling import drawn_tokens
from ..common.errors import ModelError
from ..common.types import FinishReason


@dataclass(slots=True, kw_only=True, eq=False)
class QuickRow:
    """One rollout."""

    prompt: list[int]
    seed: int
    temperature: float
    max_tokens: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class _Shape:
    layers: int
    width: int
    heads: int
    key_heads: int
    head: int
    epsilon: float

    @classmethod
    def of(cls, cfg: Qwen3Config) -> _Shape:
        assert cfg.head_dim is not None
        assert cfg.num_key_value_heads is not None
        return cls(
            layers=cfg.num_hidden_layers,
            width=cfg.hidden_size,
            heads=cfg.num_attention_heads,
            key_heads=cfg.num_key_value_heads,
            head=cfg.head_dim,
            epsilon=cfg.rms_norm_eps,
        )


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of a layer; those that read the same input are one matrix."""

    before_attention: Tensor  # [H]
    query_key_value: Tensor  # [(heads + 2 key heads) * head, H]
    query_norm: Tensor  # [head]
    key_norm: Tensor  # [head]
    output: Tensor  # [H, heads * head]
    before_mlp: Tensor  # [H]
    gate_up: Tensor  # [2 I, H]
    down: Tensor  # [H, I]


class QuickDecoder:
    """The model's weights, as `load` took them, and the loop that samples with them."""

    def __init__(self, model: PreTrainedModel, stop_ids: Sequence[int], context: int) -> None:
        """Raises: ModelError for another architecture."""
        cfg = model.config
        rope = cfg.rope_parameters if isinstance(cfg, Qwen3Config) else None
        if rope is None or rope["rope_type"] != "default" or model.dtype != torch.float32:
            raise ModelError(f"{type(model).__name__}, {model.dtype}: the quick decoder knows Qwen3 in float32 alone")
        self._shape = _Shape.of(cast(Qwen3Config, cfg))
        self._model, self._stop_ids = model, frozenset(stop_ids)
        head = self._shape.head
        steps = torch.arange(0, head, 2, dtype=torch.float32) / head
        angles = torch.outer(torch.arange(context, dtype=torch.float32), cast(float, rope["rope_theta"]) ** -steps)
        self._cos = torch.cat((angles.cos(), angles.cos()), -1)  # [context, head]
        # the sine of the first half is negative: rotated = x * cos + swapped(x) * sin
        self._sin = torch.cat((-angles.sin(), angles.sin()), -1)
        self.load()

    @torch.no_grad()
    def load(self) -> None:
        """Take the model's present weights."""
        own = {name: tensor.detach() for name, tensor in self._model.named_parameters()}
        self._embedding, self._norm = own["model.embed_tokens.weight"], own["model.norm.weight"]
        self._head = own.get("lm_head.weight", self._embedding)
        self._layers = [_layer(own, f"model.layers.{i}.") for i in range(self._shape.layers)]

    @torch.inference_mode()
    def decode(self, rows: Sequence[QuickRow]) -> None:
        """Sample every row to its end."""
        rows = sorted(rows, key=lambda row: len(row.prompt) + row.max_tokens, reverse=True)
        width = max(len(row.prompt) + row.max_tokens for row in rows)
        live = list(rows)
        size = len(rows), self._shape.key_heads, width, self._shape.head
        cache = [(torch.zeros(size), torch.zeros(size)) for _ in self._layers]
        noise = torch.from_numpy(uniforms(np.array([row.seed for row in rows])[:, None], np.arange(width)[None]))
        inverse = torch.tensor([1.0 / row.temperature for row in rows])[:, None]
        position = min(len(row.prompt) for row in rows)
        inputs = torch.tensor([row.prompt[:position] for row in rows])
        start = 0
        while live:
            logits = self._forward(inputs, start, cache)
            table = (logits * inverse).log_softmax(-1)
            tokens = drawn_tokens(table, noise[:, position])
            logprobs = table.gather(1, tokens[:, None])[:, 0]
            following = [
                _advance(row, position, token, logprob, self._stop_ids)
                for row, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True)
            ]
            kept = [i for i, row in enumerate(live) if row.finish_reason is None]
            if len(kept) < len(live):
                live, following = [live[i] for i in kept], [following[i] for i in kept]
                cache = [(keys[kept], values[kept]) for keys, values in cache]
                noise, inverse = noise[kept], inverse[kept]
            inputs, start, position = torch.tensor(following)[:, None], position, position + 1

    def _forward(self, token_ids: Tensor, start: int, cache: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The logits [B, V] behind token_ids [B, T], which are at positions start .. start + T."""
        shape, count = self._shape, token_ids.shape[1]
        width, head, epsilon = (shape.width,), (shape.head,), shape.epsilon
        cos, sin = self._cos[start : start + count, None], self._sin[start : start + count, None]
        hidden = F.embedding(token_ids, self._embedding)
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            normed = F.rms_norm(hidden, width, layer.before_attention, epsilon)
            mixed = F.linear(normed, layer.query_key_value).unflatten(-1, (-1, shape.head))  # [B, T, heads, head]
            query, key, value = mixed.split((shape.heads, shape.key_heads, shape.key_heads), 2)
            query = _rotated(F.rms_norm(query, head, layer.query_norm, epsilon), cos, sin)
            key = _rotated(F.rms_norm(key, head, layer.key_norm, epsilon), cos, sin)
            keys[:, :, start : start + count] = key.transpose(1, 2)
            values[:, :, start : start + count] = value.transpose(1, 2)
            seen = start + count
            attended = F.scaled_dot_product_attention(
                query.transpose(1, 2), keys[:, :, :seen], values[:, :, :seen], is_causal=count > 1, enable_gqa=True
            )
            hidden = hidden + F.linear(attended.transpose(1, 2).flatten(2), layer.output)
            normed = F.rms_norm(hidden, width, layer.before_mlp, epsilon)
            gate, up = F.linear(normed, layer.gate_up).chunk(2, -1)
            hidden = hidden + F.linear(F.silu(gate) * up, layer.down)
        return F.linear(F.rms_norm(hidden[:, -1], width, self._norm, epsilon), self._head)


def _layer(own: dict[str, Tensor], prefix: str) -> _Layer:
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    return _Layer(
        before_attention=own[f"{prefix}input_layernorm.weight"],
        query_key_value=torch.cat([own[f"{attention}{part}_proj.weight"] for part in "qkv"]),
        query_norm=own[f"{attention}q_norm.weight"],
        key_norm=own[f"{attention}k_norm.weight"],
        output=own[f"{attention}o_proj.weight"],
        before_mlp=own[f"{prefix}post_attention_layernorm.weight"],
        gate_up=torch.cat([own[f"{mlp}gate_proj.weight"], own[f"{mlp}up_proj.weight"]]),
        down=own[f"{mlp}down_proj.weight"],
    )


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of states [B, T, heads, head]; cos and sin [T, 1, head]."""
    return states * cos + states.roll(states.shape[-1] // 2, -1) * sin


def _advance(row: QuickRow, position: int, token: int, logprob: float, stop_ids: frozenset[int]) -> int:
    """The token at `position` of a row: of its prompt, or the one that was sampled, which is noted."""
    if position < len(row.prompt):
        return row.prompt[position]
    row.token_ids.append(token)
    row.logprobs.append(logprob)
    if token in stop_ids:
        row.finish_reason = FinishReason.stop
    elif len(row.token_ids) == row.max_tokens:
        row.finish_reason = FinishReason.length
    return token
