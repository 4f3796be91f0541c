"""The head on a GPU: values and gradients against float64, its work on logits compiled or not; and the clock of phases."""

import pytest
import torch
from prolong.common.half_head import HALF_TYPES, EntropyUse, HeadForm
from prolong.common.logprobs import head_logprobs, token_logprobs
from prolong.learner.perf import PhaseClock, measured_peak, peak_flops
from torch import Tensor

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

GPU = torch.device("cuda", 0)
ROWS, WIDTH, VOCAB = 700, 256, 5003


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("form", [HeadForm(), HeadForm(scale=1.5, soft_cap=20.0)])
def test_tensor_cores_give_what_float64_gives(dtype: torch.dtype, form: HeadForm, compiled: bool) -> None:
    generator = torch.Generator(GPU).manual_seed(0)
    shapes = ((ROWS, WIDTH), (VOCAB, WIDTH), (VOCAB,))
    leaves = [torch.randn(s, device=GPU, generator=generator).mul_(0.2).to(dtype).requires_grad_() for s in shapes]
    tokens = torch.randint(0, VOCAB, (ROWS,), device=GPU, generator=generator)
    temperature = torch.linspace(0.5, 2.0, ROWS, device=GPU)
    weights = torch.linspace(-1.0, 1.0, ROWS, device=GPU)
    hidden, weight, bias = leaves
    values, entropies = head_logprobs(
        hidden,
        weight,
        bias,
        tokens,
        temperature=temperature,
        chunk=128,
        entropy=EntropyUse.trained,
        form=form,
        compiled=compiled,
    )
    ((values + entropies) * weights).sum().backward()
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logits = torch.nn.functional.linear(*exact)
    if form.soft_cap is not None:
        logits = form.soft_cap * torch.tanh(logits / form.soft_cap)
    scaled = logits * (form.scale / temperature.double())[:, None]
    right, right_entropies = token_logprobs(scaled, tokens, entropy=EntropyUse.trained)
    ((right + right_entropies) * weights.double()).sum().backward()
    torch.testing.assert_close(values.double(), right, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(entropies.double(), right_entropies, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(leaves, exact, strict=True):
        assert relative_error(ours.grad, theirs.grad) < (0.006 if dtype is torch.bfloat16 else 0.002)


def relative_error(ours: Tensor | None, exact: Tensor | None) -> float:
    assert ours is not None
    assert exact is not None
    return float((ours.double() - exact).norm() / exact.norm())


def test_phases_are_the_time_of_the_gpu_not_of_the_launches() -> None:
    clock, matrix = PhaseClock(GPU), torch.ones(4096, 4096, device=GPU, dtype=torch.bfloat16)
    products = 200
    with clock("forward_backward"):
        for _ in range(products):
            matrix.mm(matrix)
    seconds = clock.take()["learner/forward_backward_s"]
    # no product is faster than the fastest that is known
    assert seconds > 0.5 * products * 2 * 4096**3 / max(peak_flops(GPU, torch.bfloat16), measured_peak(GPU, torch.bfloat16))
