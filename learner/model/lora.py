"""LoRA: the base stays as it is, and adapters beside its linear layers are trained (common/adapters.py).

    add_adapters: nn.Linear -> AdaptedLinear, which computes with the merged weight

The reference is a second adapter of the same base, which begins at zero: no second model is held, and a reset copies adapter
to adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ...common.adapters import BASE, DOWN, SCALE, UP, merged_weight, stored_scale
from ...common.config.sections import LoraConfig
from ...common.errors import require


class _Context(Protocol):
    """What autograd keeps from the forward to the backward pass."""

    scale: float
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _MergedLinear(torch.autograd.Function):
    """y = W x + bias with W = W0 + scale B A; W is made twice instead of kept, and only A and B have gradients.

    The gradient of W, [out, in], is never made either: those of A and B come from products with one side of length `rank`.
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor, base: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, base, down, up)
        ctx.scale = scale
        return nn.functional.linear(x, merged_weight(base, down, up, scale), bias)

    @staticmethod
    @once_differentiable
    # the decorator hides the parameter's name from the type checker
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, base, down, up = ctx.saved_tensors
        of_x = grad @ merged_weight(base, down, up, ctx.scale) if ctx.needs_input_grad[0] else None
        flat, rows = grad.flatten(0, -2), x.flatten(0, -2)
        of_down = ctx.scale * ((flat @ up).T @ rows)
        of_up = ctx.scale * (flat.T @ (rows @ down.T))
        return of_x, None, None, of_down, of_up, None


class AdaptedLinear(nn.Module):
    """A linear layer with an adapter for the policy and one for the reference. `weight` and `bias` keep their names."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        """Takes the parameters of `linear`. The new ones are not initialised."""
        super().__init__()
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.as_reference = False
        shapes = {DOWN: (rank, linear.in_features), UP: (linear.out_features, rank)}
        for name, shape in shapes.items():
            empty = torch.empty(shape, dtype=torch.float32, device=linear.weight.device)
            self.register_parameter(name, nn.Parameter(empty))
            self.register_parameter(_of_reference(name), nn.Parameter(empty.clone(), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        names = (_of_reference(DOWN), _of_reference(UP)) if self.as_reference else (DOWN, UP)
        factors = (self.get_parameter(name) for name in names)
        return _MergedLinear.apply(x, self.weight, self.bias, *factors, self.scale)  # pyright: ignore[reportReturnType]


def _of_reference(name: str) -> str:
    return f"reference_{name}"


def adapted_layers(causal: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """The layers with adapters, by name."""
    for name, module in causal.named_modules():
        if isinstance(module, AdaptedLinear):
            yield name, module


def reference_factors(name: str, layer: AdaptedLinear) -> Iterator[tuple[str, Tensor]]:
    """The factors of the reference's adapter of the layer `name`, by the names of the policy's."""
    for factor in (DOWN, UP):
        yield f"{name}.{factor}", layer.get_parameter(_of_reference(factor))


@contextmanager
def switched_to_reference(model: nn.Module) -> Iterator[None]:
    """Within the block, the layers of `model` compute with the adapters of the reference."""
    layers = [layer for _, layer in adapted_layers(model)]
    for layer in layers:
        layer.as_reference = True
    try:
        yield
    finally:
        for layer in layers:
            layer.as_reference = False


def add_adapters(causal: PreTrainedModel, cfg: LoraConfig, base: tuple[int, int]) -> None:
    """Freeze the model and give its targets adapters, which `init_adapters` has to fill. Before the model is sharded.

    base: the fingerprint of the model's files. Raises: ConfigError for targets that cannot have adapters.
    """
    causal.requires_grad_(False)
    for name in _targets(causal, cfg.targets):
        parent, _, leaf = name.rpartition(".")
        linear = causal.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(causal.get_submodule(parent), leaf, AdaptedLinear(linear, cfg.rank, cfg.scale))
    # as buffers they are a part of every update and checkpoint
    causal.register_buffer(BASE, torch.tensor(base, dtype=torch.int64))
    causal.register_buffer(SCALE, stored_scale(cfg.scale))


def _targets(causal: PreTrainedModel, wanted: list[str]) -> list[str]:
    """The names of the linear layers to adapt; without `wanted` all of the decoder's layers. Raises: ConfigError."""
    head = causal.get_output_embeddings()
    linear = [name for name, module in causal.named_modules() if isinstance(module, nn.Linear) and module is not head]
    known = f"names of linear layers of this model: {', '.join(sorted({_leaf(name) for name in linear})) or 'it has none'}"
    for target in wanted:
        reason = _no_target(causal, target)
        require(reason == "" and any(_matches(name, target) for name in linear), "model.lora.targets", target, known + reason)
    kinds = set(causal._no_split_modules or [])
    layers = tuple(f"{name}." for name, module in causal.named_modules() if type(module).__name__ in kinds)
    found = [
        name for name in linear if (any(_matches(name, target) for target in wanted) if wanted else name.startswith(layers))
    ]
    require(bool(found), "model.lora.targets", wanted, known)
    return found


def _no_target(causal: PreTrainedModel, target: str) -> str:
    """Why the parts of the model that are called `target` cannot have adapters; empty if nothing is known."""
    head = causal.get_output_embeddings()
    if any(module is head and _matches(name, target) for name, module in causal.named_modules()):
        return "; the head has none, because it is computed apart from the layers, and may be the embedding"
    if any(parameter.dim() > 2 and _matches(name, target) for name, parameter in causal.named_parameters()):
        return "; experts that lie in one tensor have none"
    return ""


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _matches(name: str, target: str) -> bool:
    """Whether the dotted name ends with the parts of `target`."""
    return f".{name}".endswith(f".{target}")


@torch.no_grad()
def init_adapters(causal: nn.Module) -> None:
    """Begin with the base: B is zero, A is drawn from the run's seed and the layer's name. Collective where sharded."""
    for name, layer in adapted_layers(causal):
        generator = torch.Generator().manual_seed((torch.initial_seed() + crc32(name.encode())) % 2**63)
        down = layer.get_parameter(DOWN)
        # the usual draw of a linear layer's weight
        bound = down.shape[1] ** -0.5
        drawn = torch.empty(down.shape).uniform_(-bound, bound, generator=generator)
        for parameter, whole in ((down, drawn), (layer.get_parameter(UP), None)):
            _fill(parameter, whole)
        for of in (DOWN, UP):
            layer.get_parameter(_of_reference(of)).copy_(layer.get_parameter(of))


def _fill(parameter: Tensor, whole: Tensor | None) -> None:
    """Fill a parameter, which may be sharded, with a whole tensor, or with zeros."""
    if whole is None:
        parameter.zero_()
    elif isinstance(parameter, DTensor):
        parameter.copy_(distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements))
    else:
        parameter.copy_(whole)
