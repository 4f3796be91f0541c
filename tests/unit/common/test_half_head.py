"""The head for half-precision states: values and gradients against the formula, its accuracy in bfloat16, its operations."""

from typing import Any

import pytest
import torch
from prolong.common import half_head
from prolong.common.half_head import EntropyUse, HeadForm, half_head_logprobs, head_product
from prolong.common.logprobs import head_logprobs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

VOCAB, ROWS, WIDTH = 700, 23, 8
FORMS = [HeadForm(), HeadForm(scale=0.5), HeadForm(soft_cap=3.0), HeadForm(scale=1.5, soft_cap=2.0)]


def drawn(dtype: torch.dtype, *, vocab: int = VOCAB, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """States, weight and bias that want gradients, tokens, and a temperature for each."""
    generator = torch.Generator().manual_seed(7)
    shapes = ((rows, WIDTH), (vocab, WIDTH), (vocab,))
    hidden, weight, bias = (
        torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for shape in shapes
    )
    tokens = torch.randint(0, vocab, (rows,), generator=generator)
    return hidden, weight, bias, tokens, torch.linspace(0.5, 2.0, rows, dtype=torch.promote_types(dtype, torch.float32))


def naive(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: Tensor, form: HeadForm
) -> tuple[Tensor, Tensor]:
    """The formula, written down with a whole table of logits."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    if form.soft_cap is not None:
        logits = form.soft_cap * torch.tanh(logits / form.soft_cap)
    table = (logits * form.scale / temperature[:, None]).log_softmax(-1)
    return table.gather(1, tokens[:, None])[:, 0], -(table.exp() * table).sum(-1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [100, 5])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("entropy", list(EntropyUse))
def test_values_and_gradients_are_those_of_the_formula(
    form: HeadForm, chunk: int, with_bias: bool, entropy: EntropyUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_head, "SLICE", 64)
    results = []
    for ours in (True, False):
        hidden, weight, bias, tokens, temperature = drawn(torch.float64)
        offset = bias if with_bias else None
        if ours:
            values, entropies = half_head_logprobs(
                hidden, weight, offset, tokens, temperature=temperature, chunk=chunk, entropy=entropy, form=form
            )
            assert entropies.requires_grad == (entropy is EntropyUse.trained)
        else:
            values, entropies = naive(hidden, weight, offset, tokens, temperature, form)
        loss = (values * torch.arange(ROWS)).sum()
        if entropy is EntropyUse.trained:
            loss = loss + (entropies * torch.arange(ROWS).flip(0)).sum()
        loss.backward()
        shown = torch.empty(0) if entropy is EntropyUse.skipped else entropies.detach()
        assert not ours or entropy is not EntropyUse.skipped or entropies.numel() == 0
        results.append((values.detach(), shown, hidden.grad, weight.grad, bias.grad if with_bias else bias.detach()))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_agree_with_finite_differences(form: HeadForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_head, "SLICE", 4)
    hidden, weight, bias, tokens, temperature = drawn(torch.float64, vocab=9, rows=5)

    def both(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return half_head_logprobs(
            hidden, weight, bias, tokens, temperature=temperature, chunk=1, entropy=EntropyUse.trained, form=form
        )

    assert torch.autograd.gradcheck(both, (hidden, weight, bias))


def test_a_frozen_head_has_no_gradient_and_its_states_have() -> None:
    hidden, weight, _, tokens, temperature = drawn(torch.float64)
    frozen = weight.detach()
    values, _ = half_head_logprobs(hidden, frozen, None, tokens, temperature=temperature, chunk=5, entropy=EntropyUse.reported)
    values.sum().backward()
    assert hidden.grad is not None
    assert frozen.grad is None


def weight_error(chunk: int, *, ours: bool) -> float:
    """Relative error of the weight's gradient in bfloat16, against the same numbers in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 64, generator=generator).bfloat16() for size in (1024, 512))
    weight = weight * 0.05
    tokens, advantage = torch.randint(0, 512, (1024,), generator=generator), torch.randn(1024, generator=generator)

    def gradient(dtype: torch.dtype, *, whole: bool) -> Tensor:
        leaf = weight.to(dtype).requires_grad_()
        states, temperature = hidden.to(dtype), torch.ones(1024, dtype=torch.promote_types(dtype, torch.float32))
        if ours or whole:
            values, _ = head_logprobs(states, leaf, None, tokens, temperature=temperature, chunk=1024 if whole else chunk)
        else:
            parts = [(s.float() @ leaf.float().T).log_softmax(-1) for s in states.split(chunk)]
            values = torch.cat(parts).gather(1, tokens[:, None])[:, 0]
        (values * advantage).mean().backward()
        assert leaf.grad is not None
        return leaf.grad.double()

    exact = gradient(torch.float64, whole=True)
    return float((gradient(torch.bfloat16, whole=False) - exact).norm() / exact.norm())


def test_the_gradient_of_a_bfloat16_weight_is_rounded_once_whatever_the_chunk() -> None:
    """The gradient is .24 % off, .17 % of it from the rounding of the result; a sum of 32 chunks in bfloat16 is .68 % off."""
    assert weight_error(32, ours=True) < 0.0025
    assert weight_error(32, ours=False) > 0.0045


def test_bfloat16_log_probabilities_and_entropies_are_exact_to_float32() -> None:
    hidden, weight, bias, tokens, temperature = drawn(torch.bfloat16)
    got = head_logprobs(hidden, weight, bias, tokens, temperature=temperature, chunk=5)
    exact = naive(hidden.double(), weight.double(), bias.double(), tokens, temperature.double(), HeadForm())
    for left, right in zip(got, exact, strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left.double(), right, rtol=2e-6, atol=2e-6)


class Products(TorchDispatchMode):
    """Records of every product of matrices: types of the operands and of the result. Counts the other operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.dtype, torch.dtype, torch.dtype]] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            left, right = args[-3:-1] if func.overloadpacket is torch.ops.aten.addmm else args[:2]
            self.seen.add((left.dtype, right.dtype, result.dtype))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("dtype", half_head.HALF_TYPES)
def test_on_a_gpu_half_precision_operands_give_float32_results_and_no_table_of_all_logits(dtype: torch.dtype) -> None:
    """Without a GPU: tensors of the meta device have shapes and types, and the head runs the operations of a GPU on them."""
    with Products() as products:
        hidden, weight = (torch.empty(size, 64, dtype=dtype, device="meta").requires_grad_() for size in (2048, 50_000))
        tokens = torch.zeros(2048, dtype=torch.int64, device="meta")
        temperature = torch.ones(2048, device="meta")
        values, _ = head_logprobs(hidden, weight, None, tokens, temperature=temperature, chunk=128)
        values.sum().backward()
    assert products.seen == {(dtype, dtype, torch.float32)}
    assert products.largest == 128 * 50_000


def test_a_cpu_converts_the_operands_and_other_types_stay() -> None:
    half = torch.ones(2, 2, dtype=torch.bfloat16)
    assert head_product(half, half).dtype == torch.float32
    assert head_product(half.double(), half.double()).dtype == torch.float64
