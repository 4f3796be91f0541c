"""The weights of a model as its files have them, with which adapters are merged: in an engine, and for an export.

    update: factors by name, fingerprint of their base, scale
    base (host memory) + factors -> merged -> whole weights by name, as the learner would have published them

The base stays as it is: every update is merged with it anew, so that nothing adds up, and an actor that missed updates has
the same weights as the others after the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from .adapters import BASE, DOWN, SCALE, UP, is_factor, merged_weight, read_scale
from .config.sections import ModelConfig
from .errors import ModelError
from .model_folder import weights_fingerprint
from .models import load_model, published_tensors
from .tokenizer import tokenizer_folder


class BaseWeights:
    """Every weight of one model in host memory, in the dtype that the engine computes in.

    Example: dict(BaseWeights.load(model, torch.bfloat16, device).merged(update))
    """

    def __init__(self, path: str, tensors: Mapping[str, Tensor], fingerprint: tuple[int, int], device: torch.device) -> None:
        """fingerprint: of the files in `path`; it tells the base of one learner from that of another."""
        self._path, self._tensors, self._fingerprint, self._device = path, tensors, fingerprint, device

    @classmethod
    def load(cls, model: ModelConfig, dtype: torch.dtype, device: torch.device) -> Self:
        """Read the model of `model.path` into host memory, to be merged on `device`. Raises: ModelError."""
        return cls.of(model.path, load_model(model, dtype=dtype, attention="eager"), device)

    @classmethod
    def of(cls, path: str, loaded: nn.Module, device: torch.device) -> Self:
        """Copy the weights of a model that was loaded from `path` and not changed. Raises: ModelError."""
        weights = ((name, tensor.detach().cpu()) for name, tensor in published_tensors(loaded))
        # a GPU copies from pages that it can read itself several times faster
        held = {name: each.pin_memory() if device.type == "cuda" else each.clone() for name, each in weights}
        return cls(path, held, weights_fingerprint(tokenizer_folder(path)), device)

    @property
    def names(self) -> set[str]:
        """The names of all weights."""
        return set(self._tensors)

    def merged(self, update: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield all weights on the device, those with an adapter in the update merged with it.

        Raises: ModelError when the adapters belong to another base.
        """
        self._check(update)
        scale = read_scale(update[SCALE])
        for name, base in self._tensors.items():
            weight = base.to(self._device, non_blocking=True)
            layer = name.removesuffix(".weight")
            down, up = update.get(f"{layer}.{DOWN}"), update.get(f"{layer}.{UP}")
            yield (
                name,
                weight
                if down is None or up is None
                else merged_weight(weight, down.to(self._device), up.to(self._device), scale),
            )

    def _check(self, update: Mapping[str, Tensor]) -> None:
        layers = {name.rpartition(".")[0] for name in update if is_factor(name)}
        unknown = sorted(layer for layer in layers if f"{layer}.weight" not in self._tensors)
        if unknown or tuple(update[BASE].tolist()) != self._fingerprint:
            other = f"it has no layer {unknown[0]}" if unknown else "the files here hold other weights"
            raise ModelError(
                f"model.path = {self._path!r}: {other} than the model whose adapters the learner trains; give actors and "
                "learner copies of the same model"
            )


def no_base() -> ModelError:
    """The error for an engine that was started without a base, when adapters arrive."""
    return ModelError(
        "the learner publishes adapters, but model.lora is empty in this actor's settings, so that it kept no base for them; "
        "start it with the settings of the learner"
    )
