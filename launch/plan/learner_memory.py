"""Bytes of a rank of the learner, and of its host, from the shape of the model and the settings.

What lives always: masters, AdamW's moments, gradients, the reference, all in shards. What lives for a moment is the largest of
a few instants, each with what it holds:

    the head's backward pass    embedding and head gathered, kept activations, a slice of logits, the head's gradient
    a layer's backward pass     the layer and the next one gathered, its activations, gradients on their way to the shards
    the end of the backward     the gradients of embedding and head, once in the dtype of the computation and once in float32
    a forward without gradient  embedding and head gathered, a layer's activations or a chunk of logits

`prolong bench memory` compares this with what the learner's code allocates (docs/gpu.md). Coefficients of activations count the
tensors that autograd keeps in transformers' layers, in units of one number a token.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...common.config.choices import Offload, Recompute
from ...common.config.sections import Config
from ...common.config.stages import staged_configs
from ...common.config.trees import lora_config
from ...common.types import PULL
from ...common.weights.staging import StagingBytes, staging_bytes
from .model_shape import ModelShape

MASTER, MOMENTS, GRADIENT = 4, 8, 4  # bytes of a parameter
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SLICE = 256  # narrowest slice of the vocabulary in the backward pass of the head (common/half_head.py)
# of one rank, outside of torch's tensors: CUDA context, libraries, NCCL's buffers; an allocator's fragments
CONTEXT_BYTES = 1_500_000_000
FRAGMENTS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerMemory:
    """Bytes on the GPU of one rank, and in the memory of its host."""

    masters: int
    moments: int
    gradients: int
    reference: int
    gathered: int  # embedding, head and layers, whole, and gradients before they are shared out, at the highest instant
    activations: int  # at that instant
    logits: int  # at that instant
    buckets: int  # of the weights that are sent meanwhile, on rank 0
    context: int  # CUDA, NCCL and fragments
    instant: str  # which one it is
    host: int  # of every rank: offloaded parts, and the copy that a checkpoint is written from
    published: int  # of rank 0's host: the version that is sent, and the next one

    @classmethod
    def nothing(cls) -> LearnerMemory:
        """Of a GPU without a rank of the learner."""
        zero = {item.name: 0 for item in fields(cls) if item.name != "instant"}
        return cls(instant="", **zero)

    @property
    def resident(self) -> int:
        return self.masters + self.moments + self.gradients + self.reference

    @property
    def tensors(self) -> int:
        """What torch allocates at the highest instant."""
        return self.resident + self.gathered + self.activations + self.logits

    @property
    def peak(self) -> int:
        return self.tensors + self.buckets + self.context

    def parts(self) -> dict[str, int]:
        """Bytes on the GPU, by what they hold."""
        elsewhere = ("instant", "host", "published")
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in elsewhere}


@dataclass(frozen=True, slots=True)
class _Instant:
    """What lives for a moment."""

    name: str
    gathered: float
    activations: float
    logits: float = 0.0

    @property
    def total(self) -> float:
        return self.gathered + self.activations + self.logits


class _Counter:
    """Bytes of the parts of one rank, for one shape under one configuration."""

    def __init__(self, shape: ModelShape, cfg: Config, shards: int, tokens: int) -> None:
        self.shape, self.learner, self.shards, self.tokens = shape, cfg.learner, shards, tokens
        self.sharded = shards > 1 or cfg.model.dtype != "float32"
        self.width = DTYPE_BYTES[cfg.model.dtype] if self.sharded else 4
        self.lora = lora_config(cfg.model)
        # an average of policies is kept in float32 (learner/model/reference.py)
        self.averaged = any(stage.reference.ema > 0 for stage in staged_configs(cfg))

    def adapters(self) -> int:
        """Parameters of the adapters of all layers."""
        if self.lora is None:
            return 0
        targets, rank = self.lora.targets, self.lora.rank
        chosen = [
            sides
            for name, sides in self.shape.matrices.items()
            if not targets or any(target.rpartition(".")[2] == name for target in targets)
        ]
        return self.shape.layers * rank * sum(map(sum, chosen))

    def state(self) -> list[float]:
        """Bytes of masters, moments and gradients; with adapters, of those and of the base, which is frozen."""
        trained = self.shape.parameters if self.lora is None else self.adapters()
        frozen = 0 if self.lora is None else self.shape.parameters
        sizes = (MASTER * trained + self.width * frozen, MOMENTS * trained, GRADIENT * trained)
        return [self.share(size) for size in sizes]

    def reference(self, used: bool) -> float:
        """Bytes of the reference; of a model with adapters it is other adapters of the same base."""
        held = self.shape.parameters if self.lora is None else self.adapters()
        return self.share(held * (MASTER if self.averaged else self.width)) if used or self.lora is not None else 0.0

    def share(self, num_bytes: float) -> float:
        return num_bytes / self.shards

    def wide(self, parameters: int) -> float:
        """Parameters gathered in the dtype of the computation; those of a plain module are there anyway."""
        return self.width * parameters if self.sharded else 0.0

    def kept(self) -> float:
        """Activations of one layer that are kept for the backward pass."""
        shape = self.shape
        if self.learner.recompute is Recompute.true:
            return self.width * self.tokens * shape.hidden
        if self.learner.recompute is Recompute.selective:
            inner = (2 if shape.gated else 1) * shape.activated
            return self.width * self.tokens * (3 * shape.hidden + inner + 2 * shape.query + 2 * shape.kv)
        return self.layer_activations()

    def layer_activations(self) -> float:
        """All activations of one layer that autograd keeps."""
        shape = self.shape
        # each norm: its input in float32 (two units of a half type), the normalised states, and the result
        norms = 2 * (4 if self.width == 2 else 2) * shape.hidden
        # queries and the result of attention; gathered keys and values; their norms: two units and one
        attention = 2 * (shape.query + shape.kv) + (3 * (shape.query + shape.kv) if shape.normed else 0)
        inner = (4 if shape.gated else 2) * shape.activated
        return self.width * self.tokens * (norms + attention + inner)

    def logit_slice(self) -> tuple[float, float]:
        """Bytes of a slice's logits, and of the product that is its part of the head's gradient."""
        shape, chunk = self.shape, self.learner.logprob_chunk
        width = max(SLICE, chunk * shape.vocab // max(self.tokens, shape.hidden) // 64 * 64)
        width = min(width, shape.vocab)
        return 4.0 * self.tokens * width, 4.0 * width * shape.hidden

    def instants(self, *, reference: bool) -> list[_Instant]:
        shape, tokens, width = self.shape, self.tokens, self.width
        states = tokens * shape.hidden
        kept, whole = self.kept(), self.layer_activations()
        root, layer, table = self.wide(shape.root), self.wide(shape.layer), self.wide(shape.table)
        shared = 4.0 * shape.layer if self.sharded else 0.0
        if self.lora is not None:
            # nothing but adapters has a gradient; the weight of a layer is made of the base and its adapter
            table, shared = 0.0, (4.0 if width == 4 else 4.0 + width) * shape.hidden * shape.intermediate
        logits, product = self.logit_slice()
        last_norm = (4 + 2 * width) * states
        head = _Instant(
            "backward pass of the head",
            root + layer + table,
            shape.layers * kept + last_norm + 4.0 * states,
            1.5 * logits + product,
        )
        inner = 0.0 if self.lora is not None else self.wide(shape.hidden * shape.intermediate * shape.experts)
        # gradients of the inner states, and of the states beside and behind the MLP
        flowing = width * tokens * (2 * shape.activated + 3 * shape.hidden)
        middle = _Instant(
            "backward pass of a layer",
            root + table + 2 * layer + inner + shared,
            max(shape.layers - 2, 0) * kept + whole + flowing + width * states,
        )
        # a tied embedding has its gradient as a head, as an embedding, and their sum; then everything is resharded
        parts = 3 if shape.tied else 2
        embedding = _Instant("backward pass of the embedding", root + parts * table + shared, width * states)
        reduced = _Instant("end of the backward pass", root + 4.0 * shape.root if self.sharded else 0.0, 0.0)
        found = [head, middle] if self.lora is not None else [head, middle, embedding, reduced]
        if reference or self.learner.minibatches > 1:
            found += self._forwards()
        return found

    def _forwards(self) -> list[_Instant]:
        """Forward passes without gradients."""
        shape, tokens, width = self.shape, self.tokens, self.width
        root, layer = self.wide(shape.root), self.wide(shape.layer)
        inner = width * tokens * ((3 if shape.gated else 2) * shape.activated + 4 * shape.hidden)
        chunk = 4.0 * min(self.learner.logprob_chunk, tokens) * shape.vocab
        return [
            _Instant("forward pass without gradient, gathering", 2 * root + layer, 0.0),
            _Instant("forward pass without gradient, a layer", root + 2 * layer, inner),
            _Instant("forward pass without gradient, the head", root + layer, 2.0 * width * tokens * shape.hidden, chunk),
        ]


def staging_of(shape: ModelShape, cfg: Config) -> StagingBytes:
    """What an update of the weights takes of GPUs and hosts, on its way from rank 0 to an actor."""
    width = DTYPE_BYTES[cfg.model.dtype]
    lora = lora_config(cfg.model)
    if lora is None:
        sizes = [width * number for number in shape.tensors()]
    else:
        sides = [side for matrix in shape.matrices.values() for side in matrix]
        sizes = [width * lora.rank * side for side in sides] * shape.layers
    pulled = cfg.weights.transport == PULL
    served = pulled and cfg.weights.serve
    return staging_bytes(sizes, cfg.weights.bucket_mb << 20, cfg.actor.tensor_parallel, pulled=pulled, served=served)


def predict_learner(shape: ModelShape, cfg: Config, *, shards: int) -> LearnerMemory:
    """The memory of rank 0, which has the most to do. `cfg.model.dtype` is settled.

    shards: ranks that share a copy of the model. A micro-batch has `learner.token_budget` tokens on each rank, or the longest
    document, which only `learner.context_parallel` splits.
    """
    tokens = max(cfg.learner.token_budget, -(-cfg.model.max_context // cfg.learner.context_parallel))
    count = _Counter(shape, cfg, shards, tokens)
    with_reference = cfg.objective.kl_beta > 0
    reference, state = count.reference(with_reference), count.state()
    moved = cfg.learner.offload if count.sharded else Offload.none
    offloaded = (reference if moved is not Offload.none else 0.0) + (sum(state) if moved is Offload.all else 0.0)
    if moved is not Offload.none:
        reference = 0.0
    if moved is Offload.all:
        state = [0.0, 0.0, 0.0]
    highest = max(count.instants(reference=with_reference), key=lambda instant: instant.total)
    tensors = sum(state) + reference + highest.total
    staging = staging_of(shape, cfg)
    saved = sum(count.state()[:2]) + count.reference(with_reference)
    return LearnerMemory(
        masters=int(state[0]),
        moments=int(state[1]),
        gradients=int(state[2]),
        reference=int(reference),
        gathered=int(highest.gathered),
        activations=int(highest.activations),
        logits=int(highest.logits),
        buckets=staging.learner_device,
        context=int(CONTEXT_BYTES + FRAGMENTS * tensors),
        instant=highest.name,
        host=int(offloaded + saved),
        published=staging.learner_host,
    )
