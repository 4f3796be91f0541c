"""Parameters that a vLLM model fills itself with `copy_`, past the weight loaders that a reload waits for.

During a reload every parameter is on the meta device, and its weight loader keeps the tensors until its layer is complete.
GPT-OSS copies its experts and sinks without a loader: the copies were lost, and the engine sampled with the experts that it was
born with.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from vllm.model_executor.model_loader.reload.layerwise import (
    _place_kernel_tensors,
    get_layerwise_info,
    make_online_process_loader,
)
from vllm.model_executor.model_loader.weight_utils import default_weight_loader

MODELS = ("GptOssForCausalLM",)
EXPERTS = ("w13_weight", "w13_bias", "w2_weight", "w2_bias")
SINKS = "sinks"


class DirectCopies:
    """Leads such copies to where they belong. Does nothing for models that have none."""

    def __init__(self, model: nn.Module) -> None:
        known = type(model).__name__ in MODELS
        self._experts = [layer for layer in model.modules() if known and hasattr(layer, EXPERTS[0])]
        self._sinks = [layer for layer in model.modules() if known and isinstance(getattr(layer, SINKS, None), nn.Parameter)]

    def prepare(self) -> None:
        """Call after a reload was begun, before any weight is loaded."""
        for layer in self._experts:
            for name in EXPERTS:
                parameter = getattr(layer, name, None)
                if isinstance(parameter, torch.Tensor):
                    _copy_through_loader(layer, name, parameter)
        for layer in self._sinks:
            info = get_layerwise_info(layer)
            _place_kernel_tensors(layer, info)
            info.reset()


def _copy_through_loader(layer: nn.Module, name: str, parameter: torch.Tensor) -> None:
    """Make `parameter.copy_` hand its tensor to a loader of the reload, which packs the layer once it is complete."""
    parameter.weight_loader = default_weight_loader  # type: ignore[attr-defined]
    loader = make_online_process_loader(layer, name)
    parameter.weight_loader = loader  # type: ignore[attr-defined]
    parameter.copy_ = partial(loader, parameter)  # type: ignore[method-assign]
