"""The sizes of a decoder that memory depends on, from config.json alone.

Families name these sizes alike. What a family does beside (biases, more norms) is a thousandth of its bytes; mixtures of
experts and gated MLPs are counted as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...common.architectures import ties_head
from ...common.errors import ModelError
from ...common.json_object import JsonObject
from ...common.model_folder import text_settings

# families whose attention normalises queries and keys, so that it keeps more of them for the backward pass
NORMED_QUERIES = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2")
# families whose MLP has no gate: two matrices instead of three
UNGATED = ("gpt2", "gpt_neox", "opt", "phi", "bloom", "falcon", "starcoder2")
# names that families have for a size, in the order of precedence
_HIDDEN, _LAYERS, _HEADS = ("hidden_size", "n_embd"), ("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A decoder: an embedding, equal layers, a norm and a head."""

    vocab: int
    hidden: int
    layers: int
    intermediate: int  # width of the MLP, of one expert in a mixture
    experts: int  # 1: a dense MLP
    active: int  # experts that a token goes through
    query: int  # width of all queries of a token
    kv: int  # width of all its keys
    kv_heads: int
    tied: bool  # the head is the embedding
    normed: bool  # queries and keys are normalised
    gated: bool

    @classmethod
    def of(cls, config: JsonObject) -> ModelShape:
        """Read config.json. Raises: ModelError for one that lacks a size."""
        text = text_settings(config)
        hidden, heads = _size(text, _HIDDEN), _size(text, _HEADS)
        head = text.get("head_dim") or hidden // heads
        kv_heads = text.get("num_key_value_heads") or heads
        kind = str(text.get("model_type", ""))
        experts = next((text[name] for name in _EXPERTS if text.get(name)), 1)
        wide = _size(text, ("intermediate_size", "n_inner", "ffn_dim"), default=4 * hidden)
        return cls(
            vocab=_size(text, ("vocab_size",)),
            hidden=hidden,
            layers=_size(text, _LAYERS),
            intermediate=(text.get("moe_intermediate_size") or wide) if experts > 1 else wide,
            experts=experts,
            active=(text.get("num_experts_per_tok") or 1) if experts > 1 else 1,
            query=heads * head,
            kv=kv_heads * head,
            kv_heads=kv_heads,
            tied=ties_head(config),
            normed=kind in NORMED_QUERIES,
            gated=kind not in UNGATED,
        )

    @property
    def table(self) -> int:
        """Parameters of the embedding, or of a head."""
        return self.vocab * self.hidden

    @property
    def root(self) -> int:
        """Parameters that belong to no layer: the embedding, an untied head, the last norm."""
        return self.table * (1 if self.tied else 2) + self.hidden

    @property
    def mlp(self) -> int:
        """Parameters of a layer's MLP, or of its experts and router."""
        matrices = (3 if self.gated else 2) * self.hidden * self.intermediate
        return matrices if self.experts == 1 else matrices * self.experts + self.hidden * self.experts

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        return 2 * self.hidden * (self.query + self.kv) + self.mlp + 2 * self.hidden

    @property
    def parameters(self) -> int:
        return self.root + self.layers * self.layer

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The linear layers of a layer that can have adapters, by the names that most families give them: (in, out)."""
        hidden, inner = self.hidden, self.intermediate
        attention = {
            "q_proj": (hidden, self.query),
            "k_proj": (hidden, self.kv),
            "v_proj": (hidden, self.kv),
            "o_proj": (self.query, hidden),
        }
        if self.experts > 1:
            return attention
        gate = {"gate_proj": (hidden, inner)} if self.gated else {}
        return attention | gate | {"up_proj": (hidden, inner), "down_proj": (inner, hidden)}

    def tensors(self) -> Iterator[int]:
        """Parameters of every tensor, in the order of the model; experts are two tensors a layer, as in transformers."""
        yield self.table
        attention = [self.hidden * self.query, self.hidden * self.kv, self.hidden * self.kv, self.query * self.hidden]
        matrix = self.hidden * self.intermediate * self.experts
        inner = [2 * matrix, matrix] if self.experts > 1 else [matrix] * (3 if self.gated else 2)
        for _ in range(self.layers):
            yield from [*attention, *inner, self.hidden, self.hidden]
        yield self.hidden
        if not self.tied:
            yield self.table

    @property
    def activated(self) -> int:
        """Width of the MLP's inner states of a token."""
        return self.intermediate * self.active


def _size(text: JsonObject, names: tuple[str, ...], default: int | None = None) -> int:
    for name in names:
        value = text.get(name)
        if isinstance(value, int) and value > 0:
            return value
    if default is None:
        raise ModelError(f"config.json: expected {' or '.join(names)} above 0, from which memory is counted; got none")
    return default
