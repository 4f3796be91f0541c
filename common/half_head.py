"""A model's head for bfloat16 and float16 states: log-probabilities and entropies in float32, without a table of logits.

The products multiply half-precision operands, as tensor cores do, and accumulate and return float32: nothing is rounded between
the states and the log-probabilities. Forward, chunks of positions run over the whole vocabulary and leave only the sum of the
exponentials. Backward, slices of the vocabulary run over all positions: each row of the weight's gradient is one product in
float32, rounded once; adding chunks of positions up in bfloat16 would be off by .7 % instead of .24 %.
With z = f(W h + b) * scale, p = softmax(z) and E the entropy: d log p_y / dz = onehot(y) - p, dE / dz = -p (log p + E).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HALF_TYPES = (torch.bfloat16, torch.float16)
# least width of a slice of the vocabulary: narrower products are slow
SLICE = 256


class EntropyUse(Enum):
    """What a forward pass needs entropies for."""

    skipped = "skipped"  # nothing: they are not computed, and the tensor of entropies is empty
    reported = "reported"  # a metric: no gradient
    trained = "trained"  # the loss: with a gradient


@dataclass(frozen=True, slots=True)
class HeadForm:
    """What a head does to its linear logits: soft_cap * tanh(logits / soft_cap) if there is a cap, and then times `scale`."""

    scale: float = 1.0
    soft_cap: float | None = None


PLAIN_HEAD = HeadForm()


def half_head_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    token_ids: Tensor,
    *,
    temperature: Tensor,
    chunk: int,
    entropy: EntropyUse,
    form: HeadForm = PLAIN_HEAD,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute what `head_logprobs` does, for states and weights of one half-precision type; others are taken in tests.

    It never holds more than [chunk, V] logits in float32, or a slice of SLICE columns for all positions.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    scale = form.scale / temperature.to(wide)
    logprobs, entropies = _HalfHead.apply(hidden, weight, bias, token_ids, scale, form.soft_cap, chunk, entropy, compiled)
    return logprobs, entropies


class _Context(Protocol):
    """The part of autograd's context that is used here."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    soft_cap: float | None
    chunk: int
    compiled: bool

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


class _HalfHead(torch.autograd.Function):
    """(hidden [M, H], weight [V, H], bias [V] or None, token_ids [M], scale [M]) -> log-probabilities and entropies [M]."""

    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token_ids: Tensor,
        scale: Tensor,
        soft_cap: float | None,
        chunk: int,
        entropy: EntropyUse,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        reduce = row_reduction(compiled)
        parts = [
            reduce(head_product(states, weight.t()), bias, tokens, factors, soft_cap, entropy is not EntropyUse.skipped)
            for states, tokens, factors in zip(hidden.split(chunk), token_ids.split(chunk), scale.split(chunk), strict=True)
        ]
        logprobs, normalizers, entropies = (torch.cat(column) for column in zip(*parts, strict=True))
        if entropy is not EntropyUse.trained:
            ctx.mark_non_differentiable(entropies)
        ctx.set_materialize_grads(False)
        ctx.soft_cap, ctx.chunk, ctx.compiled = soft_cap, chunk, compiled
        ctx.save_for_backward(hidden, weight, bias, token_ids, scale, normalizers, entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    # the decorator hides the parameters' names from the type checker
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: _Context, logprob_grad: Tensor | None, entropy_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, token_ids, scale, normalizers, entropies = ctx.saved_tensors
        if logprob_grad is None:
            logprob_grad = torch.zeros_like(normalizers)
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        hidden_grad = torch.zeros_like(hidden, dtype=scale.dtype) if to_hidden else None
        weight_grad = torch.empty_like(weight) if to_weight else None
        bias_grad = torch.empty_like(bias) if to_bias else None
        differentiate = differentiation(ctx.compiled)
        # neither the logits [M, v] nor the product [v, H] of a slice are larger than the logits of a chunk
        budget = ctx.chunk * weight.shape[0] // max(*hidden.shape, 1)
        width = max(SLICE, budget // 64 * 64)
        for low in range(0, weight.shape[0], width):
            rows = slice(low, low + width)
            part, offset = weight[rows], None if bias is None else bias[rows]
            narrow, bias_sum = differentiate(
                head_product(hidden, part.t()),
                offset,
                token_ids - low,
                normalizers,
                entropies,
                logprob_grad,
                entropy_grad,
                scale,
                ctx.soft_cap,
                hidden.dtype,
            )
            if hidden_grad is not None:
                hidden_grad += head_product(narrow, part)
            if weight_grad is not None:
                weight_grad[rows] = head_product(narrow.t(), hidden)
            if bias_grad is not None and bias_sum is not None:
                bias_grad[rows] = bias_sum
            # the next slice's product comes before this name is taken again
            del narrow
        states = None if hidden_grad is None else hidden_grad.to(hidden.dtype)
        return states, weight_grad, bias_grad, None, None, None, None, None, None


def head_product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply two matrices of one type; for half-precision ones the result is float32, from exact products.

    CPUs have no such product: there the operands are converted.
    """
    if left.dtype not in HALF_TYPES:
        return left @ right
    if left.device.type == "cpu":
        return left.float() @ right.float()
    return torch.mm(left, right, out_dtype=torch.float32)


def scaled_logits(product: Tensor, bias: Tensor | None, scale: Tensor, soft_cap: float | None) -> Tensor:
    """Turn a product of states and weights into tempered logits, in place."""
    if torch.compiler.is_compiling():
        # nothing is copied then, but without this the result would be written back
        product = product.clone()
    if bias is not None:
        product += bias
    if soft_cap is not None:
        product.div_(soft_cap).tanh_().mul_(soft_cap)
    return product.mul_(scale.unsqueeze(-1))


def reduce_rows(
    product: Tensor, bias: Tensor | None, token_ids: Tensor, scale: Tensor, soft_cap: float | None, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce [m, V] products to log-probabilities, logarithms of the sums of exponentials, and entropies; overwrites them."""
    logits = scaled_logits(product, bias, scale, soft_cap)
    normalizers = logits.logsumexp(-1)
    logprobs = logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - normalizers
    if not with_entropy:
        return logprobs, normalizers, normalizers.new_empty(0)
    table = logits.sub_(normalizers.unsqueeze(-1))
    return logprobs, normalizers, table.exp().mul_(table).sum(-1).neg_()


def logit_gradients(
    product: Tensor,
    bias: Tensor | None,
    places: Tensor,
    normalizers: Tensor,
    entropies: Tensor,
    logprob_grad: Tensor,
    entropy_grad: Tensor | None,
    scale: Tensor,
    soft_cap: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """Compute the gradient of a slice's linear logits [M, v] as `dtype`, and that of its bias; overwrites `product`.

    places [M]: the columns of the tokens, outside 0..v-1 if they are not in this slice.
    """
    logits = scaled_logits(product, bias, scale, soft_cap)
    slope = None if soft_cap is None else 1.0 - (logits / (scale * soft_cap).unsqueeze(-1)).square()
    table = logits.sub_(normalizers.unsqueeze(-1))
    chosen = logprob_grad * scale
    factor = -chosen.unsqueeze(-1)
    if entropy_grad is not None:
        factor = factor - (table + entropies.unsqueeze(-1)) * (entropy_grad * scale).unsqueeze(-1)
    grad = _with_chosen(table.exp_().mul_(factor), places, chosen)
    if slope is not None:
        grad = grad * slope
    return grad.to(dtype), None if bias is None else grad.sum(0)


def _with_chosen(grad: Tensor, places: Tensor, chosen: Tensor) -> Tensor:
    """Add `chosen` [M] to the columns `places` [M] of `grad` [M, v], where they are inside."""
    width = grad.shape[1]
    if torch.compiler.is_compiling():
        columns = torch.arange(width, device=grad.device)
        return grad + torch.where(columns == places.unsqueeze(-1), chosen.unsqueeze(-1), 0.0)
    inside = (places >= 0) & (places < width)
    return grad.scatter_add_(1, places.clamp(0, width - 1).unsqueeze(-1), (chosen * inside).unsqueeze(-1))


@cache
def row_reduction(compiled: bool) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """`reduce_rows`, on demand compiled for shapes that change."""
    return torch.compile(reduce_rows, dynamic=True) if compiled else reduce_rows


@cache
def differentiation(compiled: bool) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """`logit_gradients`, on demand compiled for shapes that change."""
    return torch.compile(logit_gradients, dynamic=True) if compiled else logit_gradients
