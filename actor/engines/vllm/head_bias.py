"""The bias of an output head that vLLM learns of only when it loads weights.

vLLM runs some models (Phi) through its wrapper around transformers, which gives the head a bias when a checkpoint has one. Our
engine starts without a checkpoint, and vLLM's reload drops every tensor that the head did not have at the start: the next step
would fail for want of `bias`. So the bias is made before the first reload, and that of each update is copied into it behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

BIAS = "lm_head.bias"


class HeadBias:
    """The late bias of one model's head, if it has one.

    prepare -> vLLM's reload, with `keep` around its tensors -> finish
    """

    def __init__(self, model: torch.nn.Module) -> None:
        heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
        # a head that was built with a bias is reloaded by vLLM itself
        self._head = heads[0] if len(heads) == 1 and not heads[0].has_bias else None
        self._value: torch.Tensor | None = None

    def prepare(self, names: Iterable[str], device: torch.device) -> None:
        """Give the head a bias if the update holds one; called before each reload."""
        if self._head is not None and getattr(self._head, "bias", None) is None and BIAS in names:
            with device:
                self._head._register_bias()

    def keep(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors but the late bias, which is kept for `finish`."""
        for name, tensor in tensors:
            if name == BIAS and self._head is not None:
                self._value = tensor.clone()
            else:
                yield name, tensor

    def finish(self) -> None:
        """Copy the kept bias into the head; called after each reload."""
        if self._head is not None and self._value is not None:
            # vLLM hangs the loader, which knows about padding and shards, on the parameter
            load: Callable[[torch.Tensor, torch.Tensor], None] = self._head.bias.weight_loader  # pyright: ignore[reportAttributeAccessIssue]
            load(self._head.bias, self._value)
            self._value = None
