"""`learner.compile`: torch compiles what surrounds attention in every decoder layer, and the head's work on logits.

Without it, RMSNorm, rotation, SwiGLU and additions are ten to twenty kernels a layer, each of which reads and writes all
states. A model that is not compiled has kernels.py for norms and rotation on a CPU, and nothing on a GPU. Layers are compiled
one by one, for shapes that change with every micro-batch. Hooks of FSDP2 and the recomputation of activations stay outside, and
so does attention: its plan is another in every micro-batch, and its kernels have nothing to gain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from transformers import AttentionInterface, PreTrainedModel

from ...common.errors import ModelError
from ..batches.attention import DOCUMENTS_ATTENTION, documents_attention


def compile_layers(causal: PreTrainedModel) -> None:
    """Compile the decoder layers of a model, each at its first forward pass.

    Raises: ModelError for a family whose layers torch cannot compile.
    """
    names = set(causal._no_split_modules or [])
    layers = [module for module in causal.modules() if type(module).__name__ in names]
    if not layers or not causal._can_compile_fullgraph:
        raise ModelError(
            f"learner.compile = true: transformers does not say that layers of {type(causal).__name__} can be compiled; "
            "use learner.compile=false"
        )
    AttentionInterface.register(DOCUMENTS_ATTENTION, _uncompiled_attention())
    for layer in layers:
        # the method, not the module: hooks of FSDP2 and the recomputation, which call it, stay outside
        layer.forward = torch.compile(layer.forward, dynamic=True)


@cache
def _uncompiled_attention() -> Callable[..., object]:
    """One function for all models of the process: code that calls another function is compiled again."""
    return torch.compiler.disable(documents_attention)
