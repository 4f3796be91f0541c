"""The policy: a transformers causal LM behind one guarded forward that turns micro-batches into log-probabilities.

Parameters are float32 masters. With several ranks, or bfloat16 compute, every decoder layer and the whole model are
FSDP2-sharded; otherwise this is the plain module. `full_parameters` uses the names of the model's checkpoint, with which vLLM
and transformers load the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ...common.config.choices import Recompute
from ...common.config.sections import ModelConfig
from ...common.config.trees import lora_config
from ...common.errors import ModelError
from ...common.half_head import EntropyUse
from ...common.logprobs import head_logprobs
from ...common.model_folder import weights_fingerprint
from ...common.models import DTYPES, load_model, published_tensors
from ...common.tokenizer import tokenizer_folder
from ...common.weights.buckets import TensorShape
from ..batches.attention import DOCUMENTS_ATTENTION, DocumentPlan, avoid_planning
from ..batches.packing import MicroBatch, PackingLayout
from .compiled import compile_layers
from .families import check_sharing, fitting_attention, head_form, passes_plans, settle_windows, shares_rows_badly
from .flops import forward_cost
from .kernels import install_kernels
from .loading import ModelFiles, empty_model, materialize
from .lora import add_adapters, init_adapters
from .recompute import recompute_layers
from .sharding import keep_rest_gathered, reshard_all, shard_module


class Policy(nn.Module):
    """A causal LM and its layout of micro-batches."""

    def __init__(self, causal: PreTrainedModel, *, chunk: int, compiled: bool = False) -> None:
        """`chunk`: completion positions that the head computes at once; `compiled`: torch compiles its work on logits."""
        super().__init__()
        self.causal = causal
        self.chunk = chunk
        self.compiled = compiled
        # of the products of matrices; the parameters of a sharded policy may be wider
        self.compute_dtype = causal.dtype
        self.layout = layout_of(
            str(causal.config._attn_implementation), separate=shares_rows_badly(type(causal), causal.config)
        )
        self.head_form = head_form(causal.config)
        # by which packing shares the work between ranks
        self.cost = forward_cost(causal)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        plan: DocumentPlan | None,
        source: Tensor,
        target: Tensor,
        temperature: Tensor,
        entropy: EntropyUse,
    ) -> tuple[Tensor, Tensor]:
        """Compute tempered log-probabilities [M] of `target`, and entropies [M] unless skipped, at least float32.

        This is the only call of the backbone: restarting position_ids keep packed documents apart only if attention_mask is
        None and use_cache is False; with anything else tokens of one document would see another's, silently.
        """
        extras = {} if plan is None else {"plan": plan}
        backbone = self.causal.base_model
        hidden = backbone(
            input_ids=input_ids, position_ids=position_ids, attention_mask=None, use_cache=False, **extras
        ).last_hidden_state
        head: Any = self.causal.get_output_embeddings()
        states = hidden.flatten(0, 1).index_select(0, source)
        return head_logprobs(
            states,
            head.weight,
            head.bias,
            target,
            temperature=temperature,
            chunk=self.chunk,
            entropy=entropy,
            form=self.head_form,
            compiled=self.compiled,
        )

    def logprobs(self, micro: MicroBatch, *, entropy: EntropyUse = EntropyUse.skipped) -> tuple[Tensor, Tensor]:
        """Compute log-probabilities and entropies [M] of a micro-batch: `forward`, with its arguments taken from there.

        Without entropies, as in every forward pass that only compares policies, their tensor is empty.
        """
        planned = micro.plan is not None
        assert planned == (self.layout is PackingLayout.documents), f"micro-batch of another layout than {self.layout.name}"
        keep_rest_gathered(self, torch.is_grad_enabled())
        own = micro if micro.share is None else micro.share
        results = self(
            own.input_ids,
            own.position_ids,
            own.plan,
            own.source,
            own.target,
            own.temperature,
            entropy,
        )
        return results if micro.share is None else (micro.share.gather(results[0]), micro.share.gather(results[1]))

    def add_gradients_up(self, ready: bool) -> None:
        """Tell the next backward pass whether the gradients of an update are `ready` with it.

        Where groups of ranks hold the model each, they add their gradients up only then: once an update, between machines.
        """
        if isinstance(self, FSDPModule):
            self.set_requires_all_reduce(ready)

    def full_parameters(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the published tensors whole, one at a time, parameters as `dtype`. Collective: every rank must exhaust it.

        Shards are converted before they are gathered: in bfloat16, half of the bytes travel and half of the memory is needed.
        """
        reshard_all(self)
        for name, tensor in published_tensors(self.causal):
            value = tensor.detach()
            if dtype is not None and isinstance(tensor, nn.Parameter):
                value = value.to(dtype)
            yield name, _gathered(value)

    def stored_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what a checkpoint holds of the policy, each tensor as this rank holds it: to be copied, or to be filled."""
        reshard_all(self)
        yield from published_tensors(self.causal)

    def full_shapes(self, dtype: torch.dtype) -> list[TensorShape]:
        """Return names, types and shapes of what `full_parameters(dtype)` yields, without gathering anything."""
        return [
            (name, dtype if isinstance(tensor, nn.Parameter) else tensor.dtype, tensor.shape)
            for name, tensor in published_tensors(self.causal)
        ]

    def reload(self, model: ModelConfig) -> None:
        """Read the published tensors from the files of `model`, each rank its own rows. Collective. Raises: ModelError."""
        reshard_all(self)
        ModelFiles(model, self.causal).fill(self.causal)

    @torch.no_grad()
    def copy_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Fill the published tensors from whole ones. Raises: ModelError when names or shapes differ."""
        reshard_all(self)
        own = dict(published_tensors(self.causal))
        if own.keys() != tensors.keys():
            raise ModelError(f"weights of another model: {sorted(own.keys() ^ tensors.keys())[:3]} are on one side only")
        for name, parameter in own.items():
            if parameter.shape != tensors[name].shape:
                raise ModelError(
                    f"weights of another model: {name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
                )
            set_tensor(parameter, tensors[name])


def _gathered(value: Tensor) -> Tensor:
    """Gather a tensor that may be sharded; shards that live on the host, where the ranks have fast links."""
    if not isinstance(value, DTensor):
        return value
    near = value.to(value.device_mesh.device_type)
    assert isinstance(near, DTensor)
    return near.full_tensor()


def set_tensor(target: Tensor, whole: Tensor) -> None:
    """Fill `target`, which may be sharded, from a whole tensor that every rank holds."""
    if isinstance(target, DTensor):
        # every rank has it all, and needs to be sent nothing
        mesh = target.device_mesh
        whole = distribute_tensor(whole.to(mesh.device_type, target.dtype), mesh, target.placements, src_data_rank=None)
    target.copy_(whole)


def layout_of(attention: str, *, separate: bool = False) -> PackingLayout:
    """Return the packing layout that suits an attention implementation of transformers.

    separate: the model must not have several documents in a row.
    """
    if separate:
        return PackingLayout.separate
    if attention == DOCUMENTS_ATTENTION:
        return PackingLayout.documents
    return PackingLayout.flat if "flash" in attention else PackingLayout.rows


def build_policy(
    model: ModelConfig,
    *,
    device: torch.device,
    chunk: int,
    shard: bool,
    mesh: DeviceMesh | None = None,
    reshard: bool = True,
    offload: bool = False,
    trainable: bool = True,
    recompute: Recompute = Recompute.false,
    sharing: int = 1,
    compiled: bool = False,
    averaged: bool = False,
) -> Policy:
    """Load the model of `model.path` on this rank, or its shard of it (sharding.py says how).

    sharing: ranks that share each micro-batch. averaged: the weights are no parameters, but change in small steps: they stay
    float32. Raises: ModelError.
    """
    avoid_planning()
    causal, files = _read(model, shard=shard)
    _fit(causal)
    if sharing > 1:
        check_sharing(causal, sharing)
    if recompute and trainable:
        recompute_layers(causal, recompute)
    if compiled:
        compile_layers(causal)
    elif device.type == "cpu":
        install_kernels(causal)
    policy = Policy(causal, chunk=chunk, compiled=compiled)
    _adapt(causal, model)
    if not trainable:
        policy.requires_grad_(False)
    if files is None:
        policy.to(device)
    else:
        policy.compute_dtype = compute = DTYPES[model.dtype]
        if not averaged:
            _narrow(policy, compute)
        layers = set(causal._no_split_modules or [])
        shard_module(policy, layers, mesh=mesh, compute=compute, offload=offload, reshard=reshard, trainable=trainable)
        materialize(policy, torch.device("cpu") if offload else device)
        files.fill(causal)
    init_adapters(causal)
    return policy


def _read(model: ModelConfig, *, shard: bool) -> tuple[PreTrainedModel, ModelFiles | None]:
    """The model in float32; to be sharded, without its weights, and the files that they are read from later."""
    attention = fitting_attention(model)
    if not shard:
        return load_model(model, dtype=torch.float32, attention=attention), None
    causal = empty_model(model, attention=attention)
    files = ModelFiles(model, causal)
    files.compute_buffers(causal)
    return causal, files


def _narrow(policy: Policy, compute: torch.dtype) -> None:
    """Store what is never updated in no more precision than it computes in. Buffers, such as frequencies, keep theirs."""
    for parameter in policy.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(compute)


def _adapt(causal: PreTrainedModel, model: ModelConfig) -> None:
    """Give the model the adapters of `model.lora`, if there are any, and freeze the rest. Raises: ConfigError, ModelError."""
    lora = lora_config(model)
    if lora is not None:
        add_adapters(causal, lora, weights_fingerprint(tokenizer_folder(model.path)))


def _fit(causal: PreTrainedModel) -> None:
    """Settle how the model attends. Its parameters may be on meta."""
    if str(causal.config._attn_implementation) == DOCUMENTS_ATTENTION and not passes_plans(causal):
        causal.set_attn_implementation("sdpa")
    settle_windows(causal)
