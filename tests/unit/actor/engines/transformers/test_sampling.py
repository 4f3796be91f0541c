"""The sampling law on a batch of logits, against a naive loop."""

from __future__ import annotations

import math

import pytest
import torch
from prolong.actor.engines.transformers.sampling import Cuts, sample


def cuts(rows: int, *, min_p: float = 0.0, top_k: int = 0, top_p: float = 1.0) -> Cuts:
    return Cuts(torch.full((rows,), min_p), torch.full((rows,), top_k), torch.full((rows,), top_p))


def naive(logits: list[float], temperature: float, min_p: float, top_k: int, top_p: float, uniform: float) -> tuple[int, float]:
    """One row, by inverse transform: min_p, of the rest the top_k, of the rest the smallest set that reaches top_p."""
    greedy = temperature == 0.0
    weights = [math.exp(x / (1.0 if greedy else temperature)) for x in logits]
    probabilities = [weight / sum(weights) for weight in weights]
    if greedy:
        best = max(range(len(logits)), key=probabilities.__getitem__)
        return best, math.log(probabilities[best])
    candidates = [i for i in range(len(logits)) if probabilities[i] >= min_p * max(probabilities)]
    candidates = sorted(candidates, key=probabilities.__getitem__, reverse=True)[: top_k or None]
    mass = sum(probabilities[i] for i in candidates)
    kept: list[int] = []
    for token in candidates:
        if sum(probabilities[i] for i in kept) >= top_p * mass:
            break
        kept.append(token)
    total = sum(probabilities[token] for token in kept)
    passed = 0.0
    for token in sorted(kept):
        passed += probabilities[token] / total
        if passed > uniform:
            return token, math.log(probabilities[token] / total)
    raise AssertionError("uniform is below 1")


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    ("min_p", "top_k", "top_p"),
    [(0.0, 0, 1.0), (0.0, 0, 0.9), (0.0, 0, 0.4), (0.0, 0, 1e-6), (0.1, 0, 1.0), (0.0, 3, 1.0), (0.0, 99, 1.0), (0.05, 5, 0.8)],
)
def test_tokens_and_logprobs_are_those_of_the_naive_law(temperature: float, min_p: float, top_k: int, top_p: float):
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(64, 12, generator=generator) * 2
    uniform = torch.rand(64, generator=generator, dtype=torch.float64)
    tokens, logprobs = sample(logits, torch.full((64,), temperature), cuts(64, min_p=min_p, top_k=top_k, top_p=top_p), uniform)
    for row in range(64):
        token, logprob = naive(logits[row].tolist(), temperature, min_p, top_k, top_p, float(uniform[row]))
        assert int(tokens[row]) == token
        assert float(logprobs[row]) == pytest.approx(logprob, abs=1e-5)


def test_rows_of_one_batch_have_settings_of_their_own():
    logits = torch.tensor([[0.0, 1.0, 3.0]]).expand(5, -1)
    low = torch.full((5,), 1e-9, dtype=torch.float64)
    own = Cuts(torch.tensor([0, 0, 0, 0, 0.5]), torch.tensor([0, 0, 0, 2, 0]), torch.tensor([1, 1, 0.5, 1, 1]))
    tokens, logprobs = sample(logits, torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]), own, low)
    assert tokens.tolist() == [0, 2, 2, 1, 2]
    assert logprobs[2] == 0.0


def test_the_largest_uniform_number_never_draws_a_token_outside_the_nucleus():
    logits = torch.tensor([[5.0, 0.0, -1.0, -2.0]])
    almost_one = torch.tensor([1.0 - 2.0**-53], dtype=torch.float64)
    tokens, logprobs = sample(logits, torch.tensor([1.0]), cuts(1, top_p=0.5), almost_one)
    assert tokens.tolist() == [0]
    assert torch.isfinite(logprobs).all()
