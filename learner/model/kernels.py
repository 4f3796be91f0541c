"""Faster CPU versions of two of transformers' building blocks, with their gradients written out.

RMSNorm and rotary embeddings take a fifth of the backward pass of a small model on a CPU, because autograd goes through five to
eight full-size temporaries for each. The versions here need two or three. A block is replaced only if both versions agree on
random input; others (other dtypes, partial rotation, another formula) stay as they are. On a GPU `learner.compile` fuses these
blocks with their neighbours (compiled.py).
Source: RMSNorm, arXiv 1910.07467, equation 4; rotary embeddings, arXiv 2104.09864, equation 34, in the half-split order of
Llama.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from transformers import PreTrainedModel

Rotate = Callable[..., tuple[Tensor, Tensor]]
# the dtypes that the replacements handle
WIDE = (torch.float32, torch.float64)


class _RMSNorm(torch.autograd.Function):
    """y = x / rms(x) * weight over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normal = x * inverse
        ctx.save_for_backward(normal, weight, inverse)
        return normal * weight

    @staticmethod
    @once_differentiable
    # the decorator hides the parameter's name from the type checker
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        normal, weight, inverse = ctx.saved_tensors
        weighted = grad * normal
        mean = (weighted @ weight).div_(normal.shape[-1]).unsqueeze(-1)
        return (grad * weight).addcmul_(normal, mean, value=-1).mul_(inverse), weighted.flatten(0, -2).sum(0), None


class _Rotate(torch.autograd.Function):
    """Rotate the pairs (x[i], x[i + D/2]) by the angles of cos and sin; the gradient rotates back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, -1.0), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out


def install_kernels(causal: PreTrainedModel) -> list[str]:
    """Replace the blocks of `causal` that agree: the norms in the model, the rotation in its module of transformers.

    Returns the names of the replaced blocks. The rotation is replaced for the whole process.
    """
    norms = ((name, module) for name, module in causal.named_modules() if type(module).__name__.endswith("RMSNorm"))
    replaced = [name for name, module in norms if _lean_norm(module)]
    home = sys.modules[type(causal).__module__]
    original: Rotate | None = getattr(home, "apply_rotary_pos_emb", None)
    if original is not None and not hasattr(original, "lean"):
        lean = _lean_rotation(original)
        if _same_rotation(original, lean):
            # a mark, so that the second model of a process does not wrap the function again
            setattr(lean, "lean", True)  # noqa: B010
            setattr(home, "apply_rotary_pos_emb", lean)  # noqa: B010
            replaced.append("apply_rotary_pos_emb")
    return replaced


def _lean_norm(module: nn.Module) -> bool:
    """Replace the module's forward, if it computes the same as `_RMSNorm`; whether it does."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or not isinstance(epsilon, float) or weight.dtype not in WIDE:
        return False
    original = module.forward

    def forward(hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype not in WIDE or hidden_states.dtype != module.weight.dtype:
            return original(hidden_states)
        return _RMSNorm.apply(hidden_states, module.weight, epsilon)  # pyright: ignore[reportReturnType]

    # the module's own weight may be on meta still
    generator = _generator(torch.device("cpu"))
    drawn = {name: torch.randn(own.shape, dtype=own.dtype, generator=generator) for name, own in module.named_parameters()}
    probe = torch.randn(3, len(weight), dtype=weight.dtype, generator=generator)
    with torch.no_grad():
        expected = functional_call(module, drawn, (probe,))
        module.forward = forward
        if torch.allclose(functional_call(module, drawn, (probe,)), expected, rtol=1e-4, atol=1e-5):
            return True
    module.forward = original
    return False


def _lean_rotation(original: Rotate) -> Rotate:
    def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        if q.dtype not in WIDE or cos.shape[-1] != q.shape[-1] or cos.requires_grad:
            return original(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        angles = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return _Rotate.apply(q, *angles), _Rotate.apply(k, *angles)  # pyright: ignore[reportReturnType]

    return apply_rotary_pos_emb


def _same_rotation(original: Rotate, lean: Rotate) -> bool:
    generator = _generator(torch.device("cpu"))
    q, k = (torch.randn(2, heads, 3, 8, generator=generator) for heads in (4, 2))
    angles = torch.randn(2, 3, 4, generator=generator).repeat(1, 1, 2)
    try:
        pairs = zip(original(q, k, angles.cos(), angles.sin()), lean(q, k, angles.cos(), angles.sin()), strict=True)
        return all(torch.allclose(left, right, rtol=1e-4, atol=1e-5) for left, right in pairs)
    except (TypeError, ValueError, RuntimeError):
        # another signature or layout
        return False


def _generator(device: torch.device) -> torch.Generator:
    """Make a generator for random input: probing must not move the run's random state."""
    return torch.Generator(device).manual_seed(0)
