"""KL(policy, reference): every placement x estimator x weight by exact enumeration on a small vocabulary.

For a token a the oracle writes down the gradient of its term with respect to its own log-probability t, by hand; the sampler's
expectation over all a, chained through the softmax, is then compared with the gradient of KL(pi || ref), also written by hand.
"""

import itertools
import math

import pytest
import torch
from prolong.common.config.algorithm import KL_PAIRS, ObjectiveConfig
from prolong.common.config.choices import Correction, KLEstimator, KLPlacement, KLWeight, Loss, Weighting
from prolong.common.errors import ConfigError
from prolong.learner.algorithm.api import Tokens
from prolong.learner.algorithm.kl import kl_in_reward, kl_penalty
from torch import Tensor

from tests.support.batches import policy_terms

VOCAB = 7
LOSS, REWARD = KLPlacement
K1, K2, K3 = KLEstimator
DETACHED, LIVE, NONE = WEIGHTS = KLWeight.detached, KLWeight.live, KLWeight.none
COMBINATIONS = list(itertools.product(KLPlacement, KLEstimator, WEIGHTS))


def tables(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the policy, and log-probabilities of the reference and of a sampler that is neither."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference, behaviour = torch.randn(3, VOCAB, dtype=torch.float64, generator=generator)
    return logits.requires_grad_(), reference.log_softmax(0), behaviour.log_softmax(0)


def unchecked(estimator: KLEstimator, weight: KLWeight, clamp: float = 100.0, truncation: float = 1e9) -> ObjectiveConfig:
    """KL in the loss, in combinations that ObjectiveConfig refuses as soon as kl_beta is above 0."""
    return ObjectiveConfig(kl_beta=0.0, kl_estimator=estimator, kl_weight=weight, kl_clamp=clamp, truncation=truncation)


def estimate(estimator: KLEstimator, s: float) -> tuple[float, float]:
    """Value, and derivative with respect to t = log pi; s = log ref - t, so ds/dt = -1."""
    return {K1: (-s, 1.0), K2: (s * s / 2, -s), K3: (math.exp(s) - s - 1, 1 - math.exp(s))}[estimator]


def slope(placement: KLPlacement, estimator: KLEstimator, weight: KLWeight, t: float, ref: float, b: float) -> float:
    """Derivative of one token's term with respect to t. In the reward, the term is weight * rho * stop_grad(k), rho = 1."""
    value, derivative = estimate(estimator, ref - t)
    w = math.exp(t - b)
    if placement is REWARD:
        return {NONE: value, DETACHED: w * value, LIVE: 2 * w * value}[weight]
    return {NONE: derivative, DETACHED: w * derivative, LIVE: w * derivative + w * value}[weight]


def through_softmax(slopes: list[float], sampler: list[float], policy: list[float]) -> list[float]:
    """d/d logit_j of sum over a of mu(a) * term(a): d t_a / d logit_j = [a = j] - pi_j."""
    total = sum(mu * x for mu, x in zip(sampler, slopes, strict=True))
    return [mu * x - pi * total for mu, x, pi in zip(sampler, slopes, policy, strict=True)]


def kl_gradient(policy: list[float], reference: list[float]) -> list[float]:
    """d/d logit_j of KL(pi || ref) = pi_j (log pi_j - log ref_j - KL)."""
    kl = sum(pi * math.log(pi / ref) for pi, ref in zip(policy, reference, strict=True))
    return [pi * (math.log(pi / ref) - kl) for pi, ref in zip(policy, reference, strict=True)]


def relative_error(got: list[float], exact: list[float]) -> float:
    return math.dist(got, exact) / math.hypot(*exact)


def enumerated_error(placement: KLPlacement, estimator: KLEstimator, weight: KLWeight, seed: int, on_policy: bool) -> float:
    """Relative error of the expected gradient, in the Euclidean norm."""
    logits, ref, behaviour = tables(seed)
    t = logits.detach().log_softmax(0)
    b = t if on_policy else behaviour
    rows = zip(t.tolist(), ref.tolist(), b.tolist(), strict=True)
    slopes = [slope(placement, estimator, weight, *row) for row in rows]
    got = through_softmax(slopes, b.exp().tolist(), t.exp().tolist())
    return relative_error(got, kl_gradient(t.exp().tolist(), ref.exp().tolist()))


def right_ones(on_policy: bool) -> set[tuple[KLPlacement, KLEstimator, KLWeight]]:
    errors = {c: [enumerated_error(*c, seed, on_policy) for seed in range(5)] for c in COMBINATIONS}
    right: set[tuple[KLPlacement, KLEstimator, KLWeight]] = {c for c, values in errors.items() if max(values) < 1e-12}
    assert all(min(values) > 0.03 for c, values in errors.items() if c not in right), "neither right nor clearly wrong"
    return right


def test_off_policy_exactly_the_pairs_of_the_configuration_are_right() -> None:
    assert right_ones(on_policy=False) == {(*pair, weight) for pair, weight in KL_PAIRS.items()}


def test_on_policy_constant_weights_no_longer_matter_but_live_ones_do() -> None:
    off_policy = right_ones(on_policy=False)
    assert right_ones(on_policy=True) == off_policy | {(LOSS, K2, NONE), (REWARD, K1, NONE)}


def test_known_forms_of_being_wrong() -> None:
    """On-policy, k1 in the loss has no gradient and k3 that of the forward KL, pi - ref. Off-policy, live w * k2 is far off."""
    logits, ref, _ = tables(0)
    t = logits.detach().log_softmax(0)
    pi = t.exp().tolist()
    columns = {}
    for estimator in (K1, K3):
        slopes = [slope(LOSS, estimator, NONE, *row) for row in zip(t.tolist(), ref.tolist(), t.tolist(), strict=True)]
        columns[estimator] = through_softmax(slopes, pi, pi)
    assert columns[K1] == pytest.approx([0.0] * VOCAB, abs=1e-15)
    assert columns[K3] == pytest.approx([p - r for p, r in zip(pi, ref.exp().tolist(), strict=True)], abs=1e-15)
    assert min(enumerated_error(LOSS, K2, LIVE, seed, False) for seed in range(5)) > 0.2


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("estimator", list(KLEstimator))
def test_the_penalty_has_the_value_and_gradient_of_the_oracle(estimator: KLEstimator, weight: KLWeight) -> None:
    logits, ref, b = tables(1)
    policy = logits.detach().log_softmax(0).requires_grad_()
    penalty, plain = kl_penalty(policy, ref, b, unchecked(estimator, weight))
    (gradient,) = torch.autograd.grad(penalty.sum(), policy)
    rows = list(zip(policy.tolist(), ref.tolist(), b.tolist(), strict=True))
    assert gradient.tolist() == pytest.approx([slope(LOSS, estimator, weight, *row) for row in rows], rel=1e-12)
    weights = [1.0 if weight is NONE else math.exp(t - mu) for t, _, mu in rows]
    values = [w * estimate(estimator, r - t)[0] for w, (t, r, _) in zip(weights, rows, strict=True)]
    assert penalty.tolist() == pytest.approx(values, rel=1e-12)
    assert plain.tolist() == pytest.approx([estimate(K3, r - t)[0] for t, r, _ in rows], rel=1e-12)
    assert not plain.requires_grad


@pytest.mark.parametrize(
    ("correction", "weighting"),
    [
        (Correction.decoupled, Weighting.truncate),
        (Correction.decoupled, Weighting.none),
        (Correction.bypass, Weighting.truncate),
    ],
)
@pytest.mark.parametrize("loss", [Loss.clip, Loss.cispo])
def test_in_the_reward_the_policy_loss_makes_the_gradient_that_of_beta_kl(
    correction: Correction, weighting: Weighting, loss: Loss
) -> None:
    """Through the real policy_loss; ignoring the behaviour policy is the wrong weight `none` of the enumeration."""
    logits, ref, b = tables(2)
    cfg = ObjectiveConfig(
        kl_beta=0.25, kl_placement=REWARD, kl_estimator=K1, kl_weight=DETACHED, loss=loss, correction=correction,
        clip_low=0.999, clip_high=1e9, truncation=1e9, kl_clamp=100.0,
    )  # fmt: skip
    cfg.weighting = weighting  # afterwards: ObjectiveConfig refuses KL in the reward without a weight
    policy = logits.log_softmax(0)
    penalty, plain = kl_penalty(policy, ref, b, cfg)
    assert penalty.tolist() == [0.0] * VOCAB
    assert bool((plain > 0).all())
    reward = kl_in_reward(policy, ref, cfg)
    assert not reward.requires_grad
    assert reward.tolist() == pytest.approx([0.25 * (t - r) for t, r in zip(policy.tolist(), ref.tolist(), strict=True)])
    tokens = Tokens(policy, policy.detach(), b, -reward, torch.ones(VOCAB), torch.arange(VOCAB), VOCAB)
    (got,) = torch.autograd.grad((b.exp() * policy_terms(tokens, cfg).loss).sum(), logits, retain_graph=True)
    exact = kl_gradient(policy.exp().tolist(), ref.exp().tolist())
    error = relative_error([x / 0.25 for x in got.tolist()], exact)
    assert (error > 0.1) if weighting is Weighting.none else (error < 1e-12)


@pytest.mark.parametrize(("placement", "estimator", "weight"), COMBINATIONS)
def test_the_configuration_refuses_every_other_combination(
    placement: KLPlacement, estimator: KLEstimator, weight: KLWeight
) -> None:
    choice = {"kl_placement": placement, "kl_estimator": estimator, "kl_weight": weight}
    ObjectiveConfig(kl_beta=0.0, **choice)
    if KL_PAIRS.get((placement, estimator)) is weight:
        ObjectiveConfig(kl_beta=1e-4, **choice)
    else:
        with pytest.raises(ConfigError, match=r"objective\.kl_"):
            ObjectiveConfig(kl_beta=1e-4, **choice)


def test_with_a_weight_the_k3_penalty_has_the_value_of_the_kl_in_expectation() -> None:
    logits, reference, behaviour = tables(3)
    policy = logits.log_softmax(0)
    penalty, plain = kl_penalty(policy, reference, behaviour, unchecked(K3, LIVE))
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((behaviour.exp() * penalty).sum(), exact)
    torch.testing.assert_close((policy.exp() * plain).sum(), exact)


@pytest.mark.parametrize(("estimator", "weight"), [(K1, LIVE), (K2, DETACHED), (K3, LIVE)])
def test_truncation_scales_value_and_gradient_of_a_token_alike(estimator: KLEstimator, weight: KLWeight) -> None:
    reference = torch.tensor([-1.0], dtype=torch.float64)
    behaviour = torch.tensor([-6.0], dtype=torch.float64)
    results = []
    for truncation in (1e9, 2.0):
        policy = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
        penalty, _ = kl_penalty(policy, reference, behaviour, unchecked(estimator, weight, 10.0, truncation))
        penalty.sum().backward()
        assert policy.grad is not None
        results.append((penalty.item(), policy.grad.item()))
    scale = 2.0 / math.exp(4.0)
    assert results[1] == pytest.approx([scale * x for x in results[0]], rel=1e-12)


def test_equal_policies_have_a_kl_of_exactly_zero_and_only_k1_moves() -> None:
    """Right after a reset. The gradient of k1 is nil only in expectation: it is w for every token."""
    policy = torch.tensor([-0.3, -4.0, -20.0], requires_grad=True)
    for estimator, weight in ((K1, LIVE), (K2, DETACHED), (K3, LIVE)):
        cfg = unchecked(estimator, weight)
        penalty, plain = kl_penalty(policy, policy.detach(), policy.detach(), cfg)
        (gradient,) = torch.autograd.grad(penalty.sum(), policy)
        assert penalty.tolist() == plain.tolist() == [0.0] * 3
        assert gradient.tolist() == [1.0 if estimator is K1 else 0.0] * 3
        assert kl_in_reward(policy, policy.detach(), cfg).tolist() == [0.0] * 3


def test_log_ratios_are_clamped_and_non_finite_ones_count_as_zero() -> None:
    policy = torch.tensor([-1.0] * 4, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-50.0, math.nan, -math.inf, -1.5], dtype=torch.float64)
    cfg = ObjectiveConfig(kl_beta=0.5, kl_clamp=10.0)
    penalty, plain = kl_penalty(policy, reference, policy.detach(), cfg)
    assert plain.tolist() == pytest.approx([math.exp(-10.0) + 10.0 - 1.0, 0.0, 0.0, math.exp(-0.5) + 0.5 - 1.0])
    assert kl_in_reward(policy, reference, cfg).tolist() == pytest.approx([5.0, 0.0, 0.0, 0.25])
    (gradient,) = torch.autograd.grad(penalty.sum(), policy)
    live_only = math.exp(-10.0) + 10.0 - 1.0
    assert gradient.tolist() == pytest.approx([live_only, 0.0, 0.0, slope(LOSS, K3, LIVE, -1.0, -1.5, -1.0)])


@pytest.mark.parametrize("behaviour", [math.nan, math.inf, -math.inf, -1e4, 0.0])
@pytest.mark.parametrize(("estimator", "weight"), [(K1, LIVE), (K2, DETACHED), (K3, LIVE)])
def test_no_behaviour_log_probability_breaks_the_penalty(behaviour: float, estimator: KLEstimator, weight: KLWeight) -> None:
    policy = torch.tensor([-300.0, -1.0], requires_grad=True)
    penalty, _ = kl_penalty(
        policy, torch.tensor([-1.0, -2.0]), torch.full((2,), behaviour), unchecked(estimator, weight, 10, 2)
    )
    (gradient,) = torch.autograd.grad(penalty.sum(), policy)
    assert torch.isfinite(penalty).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("pair", [pair for pair in KL_PAIRS if pair[0] is KLPlacement.loss])
def test_auto_is_the_weight_with_the_right_gradient(pair: tuple[KLPlacement, KLEstimator]) -> None:
    policy = torch.tensor([-0.3, -1.0], dtype=torch.float64, requires_grad=True)
    others = torch.tensor([-0.5, -0.9], dtype=torch.float64), torch.tensor([-0.7, -0.8], dtype=torch.float64)
    made = []
    for weight in (KLWeight.auto, KL_PAIRS[pair]):
        penalty, _ = kl_penalty(policy, *others, ObjectiveConfig(kl_placement=pair[0], kl_estimator=pair[1], kl_weight=weight))
        made.append((penalty.detach(), torch.autograd.grad(penalty.sum(), policy)[0]))
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])
