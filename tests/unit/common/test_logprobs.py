from typing import Any

import numpy as np
import pytest
import torch
from prolong.common import logprobs
from prolong.common.half_head import EntropyUse
from prolong.common.logprobs import head_logprobs, predictors, token_logprobs
from torch.utils._python_dispatch import TorchDispatchMode


def naive_logprob(logits: torch.Tensor, token: int, temperature: float) -> float:
    exponentials = [float(torch.exp(x / temperature)) for x in logits]
    return float(np.log(exponentials[token] / sum(exponentials)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.2])
def test_token_logprobs_are_those_of_the_tempered_softmax(temperature: float) -> None:
    logits = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    got, entropy = token_logprobs(logits, tokens, temperature)
    for i in range(7):
        assert got[i].item() == pytest.approx(naive_logprob(logits[i], int(tokens[i]), temperature), rel=1e-12)
        table = [naive_logprob(logits[i], v, temperature) for v in range(5)]
        assert entropy[i].item() == pytest.approx(-sum(np.exp(x) * x for x in table), rel=1e-12)


def test_predictors_pair_each_token_with_the_state_before_it() -> None:
    assert predictors(np.array([4, 5, 6]), np.array([9, 10, 11])).tolist() == [6, 9, 10]
    assert predictors(np.array([0]), np.array([1])).tolist() == [0]


@pytest.mark.parametrize("kept", [0, 1 << 22])
def test_chunked_head_has_the_values_and_gradients_of_the_whole(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "KEEP_LOGITS", kept)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 11, (23,), generator=generator)
    results = []
    for chunk in (100, 23, 5, 1):
        hidden = torch.randn(23, 8, dtype=torch.float64, generator=generator.manual_seed(2)).requires_grad_()
        weight = torch.randn(11, 8, dtype=torch.float64, generator=generator).requires_grad_()
        values, entropy = head_logprobs(hidden, weight, None, tokens, temperature=torch.full((23,), 1.3), chunk=chunk)
        (values * torch.arange(23)).sum().backward()
        assert not entropy.requires_grad
        results.append((values.detach(), entropy, hidden.grad, weight.grad))
    for other in results[1:]:
        for left, right in zip(results[0], other, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_bfloat16_states_give_float32_logits() -> None:
    hidden = torch.randn(4, 8, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(3))
    weight = torch.randn(6, 8, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(4))
    tokens = torch.tensor([0, 1, 2, 3])
    got, _ = head_logprobs(hidden, weight, None, tokens, temperature=torch.ones(4), chunk=8)
    exact, _ = token_logprobs(hidden.double() @ weight.double().T, tokens, 1.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


def head_inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (torch.randn(s, dtype=torch.float64, generator=generator) for s in ((23, 8), (11, 8), (11,)))
    return (
        hidden.requires_grad_(),
        weight.requires_grad_(),
        bias.requires_grad_(),
        torch.randint(0, 11, (23,), generator=generator),
    )


@pytest.mark.parametrize("chunk", [100, 5])
@pytest.mark.parametrize("kept", [0, 1 << 22])
@pytest.mark.parametrize("with_bias", [True, False])
def test_every_token_has_its_own_temperature(chunk: int, kept: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "KEEP_LOGITS", kept)
    temperature = torch.linspace(0.5, 2.0, 23, dtype=torch.float64)
    results = []
    for packed in (True, False):
        hidden, weight, bias, tokens = head_inputs(5)
        offset = bias if with_bias else None
        if packed:
            values, entropy = head_logprobs(
                hidden, weight, offset, tokens, temperature=temperature, chunk=chunk, entropy=EntropyUse.trained
            )
        else:
            rows = [torch.nn.functional.linear(h, weight, offset) / t for h, t in zip(hidden, temperature, strict=True)]
            table = torch.stack(rows).log_softmax(-1)
            values, entropy = table.gather(1, tokens[:, None])[:, 0], -(table.exp() * table).sum(-1)
        (values * torch.arange(23) + entropy * torch.arange(23).flip(0)).sum().backward()
        assert (bias.grad is not None) == with_bias
        results.append((values.detach(), entropy.detach(), hidden.grad, weight.grad, bias.grad if with_bias else bias.detach()))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


class LogitOps(TorchDispatchMode):
    """Names of the operations whose result has the size of the logits."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() == self.size:
            self.names.append(func.name())
        return result


def test_temperatures_cost_no_second_table_of_logits() -> None:
    """[M, V] is what memory is spent on: the states are tempered, and a bias is added in place."""
    hidden, weight, bias, tokens = head_inputs(6)
    with LogitOps(23 * 11) as ops:
        head_logprobs(hidden, weight, bias, tokens, temperature=torch.linspace(0.5, 2.0, 23).double(), chunk=100)
    made = [name for name in ops.names if name != "aten::detach"]
    assert made == ["aten::mm", "aten::addr_", "aten::_log_softmax", "aten::exp", "aten::mul_.Tensor"]  # the last two: entropy
