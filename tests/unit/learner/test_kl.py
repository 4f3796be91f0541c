"""Exact enumeration on a small vocabulary: the sampler's expectation of each token's gradient is the gradient of the KL."""

import pytest
import torch
from prolong.common.config import KLEstimator
from prolong.learner.kl import kl_penalty
from torch import Tensor

VOCAB = 7


def tables(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the policy, and log-probabilities of the reference and of a sampler that is neither."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference, behaviour = torch.randn(3, VOCAB, dtype=torch.float64, generator=generator)
    return logits.requires_grad_(), reference.log_softmax(0), behaviour.log_softmax(0)


def exact_gradient(logits: Tensor, reference: Tensor) -> Tensor:
    policy = logits.log_softmax(0)
    (gradient,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)
    return gradient


def expected_gradient(logits: Tensor, per_token: Tensor, behaviour: Tensor) -> Tensor:
    """Gradient of sum over tokens of mu(token) * penalty(token): what an infinite sample of mu would give."""
    (gradient,) = torch.autograd.grad((behaviour.exp() * per_token).sum(), logits, retain_graph=True)
    return gradient


@pytest.mark.parametrize("estimator", list(KLEstimator))
@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_expected_gradient_is_that_of_the_reverse_kl(estimator: KLEstimator, on_policy: bool, seed: int) -> None:
    logits, reference, sampler = tables(seed)
    policy = logits.log_softmax(0)
    behaviour = policy.detach() if on_policy else sampler
    penalty, _ = kl_penalty(policy, reference, behaviour, estimator=estimator, clamp=100.0, truncation=1e9)
    got = expected_gradient(logits, penalty, behaviour)
    torch.testing.assert_close(got, exact_gradient(logits, reference), rtol=1e-10, atol=1e-12)


def test_the_weightings_that_are_not_offered_are_really_wrong() -> None:
    logits, reference, behaviour = tables(0)
    policy = logits.log_softmax(0)
    s, w = reference - policy, (policy - behaviour).exp()
    k2, k3 = 0.5 * s.square(), s.exp() - s - 1
    exact = exact_gradient(logits, reference)
    for wrong in (k2, k3, w.detach() * k3, w * k2):
        error = (expected_gradient(logits, wrong, behaviour) - exact).norm() / exact.norm()
        assert error > 0.1


def test_k3_penalty_has_the_value_of_the_kl_in_expectation() -> None:
    logits, reference, behaviour = tables(3)
    policy = logits.log_softmax(0)
    penalty, plain = kl_penalty(policy, reference, behaviour, estimator=KLEstimator.k3, clamp=100.0, truncation=1e9)
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((behaviour.exp() * penalty).sum(), exact)
    torch.testing.assert_close((policy.exp() * plain).sum(), exact)


@pytest.mark.parametrize("estimator", list(KLEstimator))
def test_truncation_scales_value_and_gradient_of_a_token_alike(estimator: KLEstimator) -> None:
    reference = torch.tensor([-1.0], dtype=torch.float64)
    behaviour = torch.tensor([-6.0], dtype=torch.float64)
    results = []
    for truncation in (1e9, 2.0):
        policy = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
        penalty, _ = kl_penalty(policy, reference, behaviour, estimator=estimator, clamp=10.0, truncation=truncation)
        penalty.sum().backward()
        assert policy.grad is not None
        results.append((penalty.item(), policy.grad.item()))
    scale = 2.0 / torch.tensor(4.0).double().exp().item()
    assert results[1] == pytest.approx([scale * x for x in results[0]], rel=1e-12)


def test_equal_policies_have_a_kl_of_exactly_zero_and_no_gradient() -> None:
    policy = torch.tensor([-0.3, -4.0, -20.0], requires_grad=True)
    for estimator in KLEstimator:
        penalty, plain = kl_penalty(policy, policy.detach(), torch.zeros(3), estimator=estimator, clamp=10.0, truncation=2.0)
        (gradient,) = torch.autograd.grad(penalty.sum(), policy)
        assert penalty.tolist() == plain.tolist() == gradient.tolist() == [0.0, 0.0, 0.0]


def test_log_ratios_are_clamped_and_non_finite_ones_count_as_zero() -> None:
    policy = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64)
    reference = torch.tensor([-50.0, float("nan"), float("-inf")], dtype=torch.float64)
    _, plain = kl_penalty(policy, reference, policy, estimator=KLEstimator.k3, clamp=10.0, truncation=2.0)
    assert plain.tolist() == pytest.approx([torch.tensor(-10.0).double().exp().item() + 10.0 - 1.0, 0.0, 0.0])
