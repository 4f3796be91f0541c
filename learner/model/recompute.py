"""Activations that the backward pass computes again: all of a layer's, or all but the expensive ones."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from ...common.config.choices import Recompute

# matrix products whose results are kept under Recompute.selective; bmm is not here: eager attention makes its scores with it
PRODUCTS = {"aten::mm", "aten::addmm", "aten::_grouped_mm", "aten::_scaled_mm"}


def recompute_layers(causal: PreTrainedModel, what: Recompute) -> None:
    """Recompute activations in the backward pass. That needs training mode, hence dropout is switched off."""
    for module in causal.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            # nn.Module does not declare the attribute, so that an assignment would not pass the type check
            setattr(module, "attention_dropout", 0.0)  # noqa: B010
    settings: dict[str, object] = {"use_reentrant": False}
    if what is Recompute.selective:
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    causal.train()


def _keep_products(ctx: SelectiveCheckpointContext, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    """Keep what takes long to compute. Kernels of attention are known by their names, which differ by device and library."""
    if not isinstance(op, torch._ops.OpOverload):
        return CheckpointPolicy.PREFER_RECOMPUTE
    name = op._schema.name
    attention = "attention" in name or "attn" in name
    return CheckpointPolicy.MUST_SAVE if attention or name in PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
