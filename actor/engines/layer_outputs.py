"""What a causal LM computes on its way from tokens to logits, read with hooks: the same stages for engine and learner.

embedding, layer 0, layer 1, ..., final norm, logits
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

EMBEDDING, FINAL, LOGITS = "embedding", "final norm", "logits"
Arguments = tuple[object, ...]


class LayerOutputs:
    """Watches one model until `take`. Stages that the model does not have, or does not run as modules, are missing."""

    def __init__(self, model: nn.Module, num_layers: int, hidden_size: int) -> None:
        """Register the hooks. `model` is the whole model, or its body, with `num_layers` layers in one list."""
        self.found: dict[str, Tensor] = {}  # stage -> [tokens, features]
        self._hidden_size = hidden_size
        # of transformers, whose whole models return logits and whose bodies return states
        body = getattr(model, "base_model", model)
        self._handles: list[RemovableHandle] = [body.register_forward_hook(self._final)]
        if body is not model:
            self._handles.append(model.register_forward_hook(self._logits))
        layers = layer_list(model, num_layers)
        if layers:
            self._handles.append(layers[0].register_forward_pre_hook(self._embedding, with_kwargs=True))
        for i, layer in enumerate(layers):
            self._handles.append(layer.register_forward_hook(self._stage(f"layer {i}")))
        for module in model.modules():
            if type(module).__name__ == "LogitsProcessor":
                self._handles.append(module.register_forward_hook(self._logits))

    def take(self) -> dict[str, Tensor]:
        """What was computed, float32 on the CPU; the hooks are gone afterwards."""
        for handle in self._handles:
            handle.remove()
        return self.found

    def _keep(self, stage: str, value: Tensor | None) -> None:
        if value is None:
            return
        # a prompt may come in several forward passes
        seen = value.detach().flatten(0, -2).to("cpu", torch.float32, copy=True)
        self.found[stage] = torch.cat([self.found[stage], seen]) if stage in self.found else seen

    def _embedding(self, module: nn.Module, args: Arguments, kwargs: Mapping[str, object]) -> None:
        states = kwargs.get("hidden_states")
        candidates = [states, *args] if isinstance(states, Tensor) else args
        self._keep(EMBEDDING, next(iter(self._states(candidates)), None))

    def _stage(self, stage: str) -> Callable[[nn.Module, Arguments, object], None]:
        def hook(module: nn.Module, args: Arguments, output: object) -> None:
            parts = self._states(output if isinstance(output, tuple) else (output,))
            # vLLM adds the residual in the next layer's norm
            self._keep(stage, parts[0] + parts[1] if len(parts) == 2 else next(iter(parts), None))

        return hook

    def _final(self, module: nn.Module, args: Arguments, output: object) -> None:
        states = getattr(output, "last_hidden_state", output)
        self._keep(FINAL, next(iter(self._states(states if isinstance(states, tuple) else (states,))), None))

    def _logits(self, module: nn.Module, args: Arguments, output: object) -> None:
        logits = getattr(output, "logits", output)
        self._keep(LOGITS, logits if isinstance(logits, Tensor) else None)

    def _states(self, values: Iterable[object]) -> list[Tensor]:
        tensors = [value for value in values if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1]
        return [tensor for tensor in tensors if tensor.shape[-1] == self._hidden_size]


def layer_list(model: nn.Module, num_layers: int) -> list[nn.Module]:
    """The model's layers in order; none if it has no list of so many."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == num_layers]
    return list(lists[0]) if lists else []
