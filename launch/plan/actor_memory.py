"""Bytes of an actor on each of its GPUs, and of its host, from the shape of the model and the settings.

vLLM takes `actor.gpu_memory_utilization` of a GPU: weights, the activations of its largest forward pass, which it tries at its
start, and all the rest for keys and values. CUDA graphs, the context and the buckets of an update come on top: the update
itself waits in the memory of the host (common/weights/staging.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...common.config.sections import Config
from ...common.config.trees import lora_config
from .learner_memory import DTYPE_BYTES, staging_of
from .model_shape import ModelShape

# tokens of vLLM's largest forward pass, which it chooses by the card
BATCHED_TOKENS = 8192
# of each GPU, outside of vLLM's share: CUDA context, CUDA graphs; with several GPUs NCCL's buffers
CONTEXT_BYTES_OF_ACTOR = 1_500_000_000
# copies of the logits of all sequences that sampling and log-probabilities hold at once
LOGIT_COPIES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorMemory:
    """Bytes on one GPU of an actor, and in the memory of its host."""

    share: float  # of the GPU, as vLLM gets it
    weights: int
    activations: int
    buckets: int  # of an update, while it is received and loaded
    kv_cache: int  # what is left of the share; below 0: it does not fit
    context: int
    kv_tokens: int  # tokens whose keys and values fit
    sequences: int  # rollouts of full length that run at once, at most actor.max_num_seqs
    host: int  # an update that waits to be loaded; what adapters are merged with, for each process of the engine

    @property
    def taken(self) -> int:
        """What the actor takes of its GPU."""
        return self.weights + self.activations + self.buckets + max(self.kv_cache, 0) + self.context

    def parts(self) -> dict[str, int]:
        """Bytes on the GPU, by what they hold."""
        return {name: getattr(self, name) for name in ("weights", "activations", "buckets", "kv_cache", "context")}


def kv_bytes(shape: ModelShape, cfg: Config) -> int:
    """Bytes of the keys and values of one token, on one GPU: heads are split over the GPUs of an engine, or repeated."""
    split = min(cfg.actor.tensor_parallel, shape.kv_heads)
    width = 1 if _in_8_bits(cfg, "kv_cache_dtype") else DTYPE_BYTES[cfg.model.dtype]
    return 2 * shape.layers * shape.kv * width // split


def _in_8_bits(cfg: Config, argument: str) -> bool:
    """Whether an argument of vLLM's engine names a type of 8 bits, such as fp8_per_tensor or int8."""
    return str(cfg.actor.engine_args.get(argument, "")).startswith(("fp8", "mxfp8", "int8"))


def _weights(shape: ModelShape, cfg: Config) -> int:
    """Bytes of the weights on one GPU. Embedding and head are not quantized."""
    width = DTYPE_BYTES[cfg.model.dtype]
    layers = shape.layers * shape.layer * (1 if _in_8_bits(cfg, "quantization") else width)
    return (width * shape.root + layers) // cfg.actor.tensor_parallel


def predict_actor(shape: ModelShape, cfg: Config, total_bytes: int, share: float) -> ActorMemory:
    """The memory of an actor on GPUs of `total_bytes`, of which vLLM gets `share`. `cfg.model.dtype` is settled."""
    width, split = DTYPE_BYTES[cfg.model.dtype], cfg.actor.tensor_parallel
    weights = _weights(shape, cfg)
    batched = cfg.actor.engine_args.get("max_num_batched_tokens")
    inner = (
        width * (batched if isinstance(batched, int) else BATCHED_TOKENS) * (3 * shape.activated // split + 4 * shape.hidden)
    )
    activations = inner + 4 * LOGIT_COPIES * cfg.actor.max_num_seqs * shape.vocab
    staging = staging_of(shape, cfg)
    base = width * shape.parameters * split if lora_config(cfg.model) is not None else 0
    kv_cache = int(share * total_bytes) - weights - activations
    tokens = max(kv_cache, 0) // kv_bytes(shape, cfg)
    return ActorMemory(
        share=share,
        weights=weights,
        activations=activations,
        buckets=staging.actor_device,
        kv_cache=kv_cache,
        context=CONTEXT_BYTES_OF_ACTOR,
        kv_tokens=tokens,
        sequences=min(tokens // cfg.model.max_context, cfg.actor.max_num_seqs),
        host=staging.actor_host + base,
    )
