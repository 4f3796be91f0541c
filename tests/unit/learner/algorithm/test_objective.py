"""Every row of the objective against a naive oracle, token by token in float64: values, gradients, flags; and known identities.

The oracle computes one token's loss from plain floats. `live` is the current policy's log-probability where the loss is
differentiated, `t` the same number where it is a constant (stop_grad). Its gradient is a central difference in `live`.
"""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Correction, Loss, Weighting
from prolong.common.config.sections import Config
from prolong.learner.algorithm.api import Tokens
from prolong.learner.algorithm.corrections import log_ratios
from prolong.learner.algorithm.losses.second_moment import SecondMomentClip, SecondMomentLoss
from prolong.learner.algorithm.losses.table import LOSSES as TABLE
from prolong.learner.algorithm.losses.table import build_loss
from prolong.learner.algorithm.objective import PolicyTerms, policy_loss
from prolong.learner.batches.packing import PackingLayout, pack
from prolong.learner.ranks import Ranks
from torch import Tensor

from tests.support.batches import policy_terms, random_batch, samples_under

BOUNDS = (0.6, 1.8)
LENGTHS = (1, 7, 30, 2, 60, 100, 100)
LOSSES = {
    "clip": {"loss": Loss.clip},
    "dual": {"loss": Loss.clip, "dual_clip": 1.7},
    "cispo": {"loss": Loss.cispo},
    "gspo": {"loss": Loss.gspo},
    "m2po": {"loss": Loss.m2po},
    "sapo": {"loss": Loss.sapo},
    "dppo_tv": {"loss": Loss.dppo_tv, "clip_low": 0.05, "clip_high": 0.1},
    "dppo_kl": {"loss": Loss.dppo_kl, "clip_low": 0.02, "clip_high": 0.03},
}
CORRECTIONS = {
    "truncate": {"correction": Correction.decoupled},
    "mask": {"correction": Correction.decoupled, "weighting": Weighting.mask},
    "ignored": {"correction": Correction.decoupled, "weighting": Weighting.none},
    "bypass": {"correction": Correction.bypass},
    "approximate": {"correction": Correction.approximate},
    "approximate_mask": {"correction": Correction.approximate, "weighting": Weighting.mask},
}
PAIRS = [pair for pair in itertools.product(LOSSES, CORRECTIONS) if pair[0] != "m2po" or pair[1] == "bypass"]  # else refused


@dataclass
class Naive:
    """The expected terms of one token."""

    loss: float
    ratio: float
    weight: float
    low: bool
    high: bool
    dual: bool
    rejected: bool


def scene(spread: float = 0.5, seed: int = 0) -> Tokens:
    """Tokens of rollouts of LENGTHS, interleaved. Each rollout has another drift, so that GSPO's ratio leaves the clip."""
    generator = torch.Generator().manual_seed(seed)
    rollout = torch.tensor([i for i, length in enumerate(LENGTHS) for _ in range(length)])
    rollout = rollout[torch.randperm(len(rollout), generator=generator)]
    noise = spread * torch.randn(3, len(rollout), dtype=torch.float64, generator=generator)
    drift = torch.tensor([0.1, -0.7, 1.5, -0.1, -1.0, 1.4, 0.05], dtype=torch.float64)[rollout]
    behaviour = noise[0] - 2.0
    proximal = behaviour + 1.6 * noise[1]
    return Tokens(
        policy=(proximal + noise[2] + drift).requires_grad_(),
        proximal=proximal,
        behaviour=behaviour,
        advantage=torch.randn(len(rollout), dtype=torch.float64, generator=generator),
        staleness=torch.randint(0, 5, (len(rollout),), generator=generator),
        rollout=rollout,
        num_rollouts=len(LENGTHS),
    )


class Oracle:
    """The formulas, on lists of floats."""

    def __init__(self, tokens: Tokens, cfg: ObjectiveConfig) -> None:
        self.cfg = cfg
        self.t, self.b, self.a = tokens.policy.tolist(), tokens.behaviour.tolist(), tokens.advantage.tolist()
        self.p = tokens.proximal.tolist()
        if cfg.correction is Correction.approximate:
            alphas = [versions / (versions + 1) for versions in tokens.staleness.tolist()]
            self.p = [b + alpha * (t - b) for b, t, alpha in zip(self.b, self.t, alphas, strict=True)]
        old = self.b if cfg.correction is Correction.bypass else self.p
        self.log_ratio = [t - o for t, o in zip(self.t, old, strict=True)]
        if cfg.loss is Loss.gspo:
            owners = tokens.rollout.tolist()
            parts = [[x for x, o in zip(self.log_ratio, owners, strict=True) if o == which] for which in range(len(LENGTHS))]
            self.log_ratio = [sum(parts[owner]) / len(parts[owner]) for owner in owners]

    def token(self, i: int, live: float) -> Naive:
        cfg, a, t = self.cfg, self.a[i], self.t[i]
        bypass = cfg.correction is Correction.bypass
        weight = 1.0 if bypass else math.exp(self.p[i] - self.b[i])
        ratio = math.exp(self.log_ratio[i]) * math.exp(live - t)
        low, high = BOUNDS if cfg.loss is Loss.m2po else (1 - cfg.clip_low, 1 + cfg.clip_high)
        if cfg.loss is Loss.cispo:
            loss = -min(math.exp(self.log_ratio[i]), high) * a * live
            low_hit, high_hit = False, ratio > high
        elif cfg.loss is Loss.sapo:
            tau = 1.0 if a > 0 else 1.05
            loss = -a * 4 / tau / (1 + math.exp(-tau * (ratio - 1)))
            low_hit = high_hit = False
        elif cfg.loss in (Loss.dppo_tv, Loss.dppo_kl):
            old = t - self.log_ratio[i]
            divergence = abs(math.exp(t) - math.exp(old)) if cfg.loss is Loss.dppo_tv else binary_kl(old, t)
            low_hit = a < 0 and t < old and divergence > cfg.clip_low
            high_hit = a > 0 and t > old and divergence > cfg.clip_high
            loss = 0.0 if low_hit or high_hit else -min(math.exp(t - old), 20.0) * a * live
        else:
            loss = naive_ppo(ratio, a, low, high, cfg.dual_clip)
            low_hit, high_hit = a < 0 and ratio < low, a > 0 and ratio > high
        dual_hit = cfg.dual_clip > 0 and a < 0 and ratio > cfg.dual_clip
        masked = not bypass and cfg.weighting is Weighting.mask and not cfg.mask_low <= weight <= cfg.mask_high
        factor = {Weighting.truncate: min(weight, cfg.truncation), Weighting.mask: weight, Weighting.none: 1.0}[cfg.weighting]
        factor = 1.0 if bypass else factor
        return Naive(0.0 if masked else factor * loss, ratio, weight, low_hit, high_hit, dual_hit, masked)

    def slope(self, i: int, eps: float = 1e-6) -> float:
        return (self.token(i, self.t[i] + eps).loss - self.token(i, self.t[i] - eps).loss) / (2 * eps)


def binary_kl(old: float, new: float) -> float:
    """KL of a coin that shows the token: old and new are its log-probabilities."""
    pair = [(math.exp(old), math.exp(new)), (max(1 - math.exp(old), 1e-8), max(1 - math.exp(new), 1e-8))]
    return sum(mu * math.log(mu / pi) for mu, pi in pair)


def naive_ppo(ratio: float, a: float, low: float, high: float, dual: float) -> float:
    loss = max(-a * ratio, -a * min(max(ratio, low), high))
    return min(loss, -dual * a) if dual and a < 0 else loss


def solve(tokens: Tokens, cfg: ObjectiveConfig, bounds: tuple[float, float] = BOUNDS) -> tuple[PolicyTerms, Tensor]:
    """The terms, and the gradient of the sum of their losses. bounds: those that loss m2po found for the mini-batch."""
    terms = policy_loss(tokens, cfg, SecondMomentClip(*bounds)) if cfg.loss is Loss.m2po else policy_terms(tokens, cfg)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), tokens.policy)
    return terms, gradient


def objective(*parts: dict[str, object]) -> ObjectiveConfig:
    return ObjectiveConfig(**{key: value for part in parts for key, value in part.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "correction"), PAIRS)
def test_every_loss_and_correction_equals_the_naive_oracle(loss: str, correction: str) -> None:
    tokens, cfg = scene(), objective(LOSSES[loss], CORRECTIONS[correction])
    terms, gradient = solve(tokens, cfg)
    oracle = Oracle(tokens, cfg)
    naive = [oracle.token(i, t) for i, t in enumerate(oracle.t)]
    assert terms.loss.tolist() == pytest.approx([n.loss for n in naive], rel=1e-12)
    assert terms.uncorrected.ratio.tolist() == pytest.approx([n.ratio for n in naive], rel=1e-12)
    assert terms.weight.tolist() == pytest.approx([n.weight for n in naive], rel=1e-12)
    assert gradient.tolist() == pytest.approx([oracle.slope(i) for i in range(len(naive))], rel=1e-6, abs=1e-8)
    flags = (terms.uncorrected.clipped_low, terms.uncorrected.clipped_high, terms.uncorrected.clipped_dual, terms.rejected)
    assert [f.tolist() for f in flags] == [[getattr(n, key) for n in naive] for key in ("low", "high", "dual", "rejected")]
    happen = (loss not in ("cispo", "sapo"), loss != "sapo", loss == "dual", "mask" in correction)
    assert tuple(bool(f.any()) for f in flags) == happen
    assert not terms.weight.requires_grad
    assert not terms.uncorrected.ratio.requires_grad


def same(left: tuple[PolicyTerms, Tensor], right: tuple[PolicyTerms, Tensor]) -> None:
    torch.testing.assert_close(left[0].loss, right[0].loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(left[1], right[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "m2po"])
def test_with_the_proximal_policy_equal_to_the_behaviour_all_corrections_are_the_plain_loss(loss: str) -> None:
    tokens = replace(scene(), staleness=torch.zeros(sum(LENGTHS)))
    tokens.proximal = tokens.behaviour
    plain = solve(tokens, objective(LOSSES[loss], CORRECTIONS["bypass"]))
    for correction in ("truncate", "mask", "ignored", "approximate"):
        terms, gradient = solve(tokens, objective(LOSSES[loss], CORRECTIONS[correction]))
        same((terms, gradient), plain)
        assert terms.weight.tolist() == [1.0] * len(terms.weight)


@pytest.mark.parametrize(("loss", "correction"), PAIRS)
def test_a_fresh_batch_has_weight_and_ratio_one_and_the_plain_policy_gradient(loss: str, correction: str) -> None:
    tokens = scene()
    tokens.proximal = tokens.behaviour = tokens.policy.detach()
    terms, gradient = solve(tokens, objective(LOSSES[loss], CORRECTIONS[correction]))
    assert terms.weight.tolist() == terms.uncorrected.ratio.tolist() == [1.0] * len(terms.uncorrected.ratio)
    assert gradient.tolist() == pytest.approx((-tokens.advantage).tolist(), rel=1e-15 if loss == "sapo" else 0, abs=0)
    assert not bool(
        (terms.uncorrected.clipped_low | terms.uncorrected.clipped_high | terms.uncorrected.clipped_dual | terms.rejected).any()
    )


def test_the_approximate_proximal_is_interpolated_by_version_and_reads_no_recomputed_one() -> None:
    column = {"rollout": torch.zeros(4, dtype=torch.int64), "num_rollouts": 1, "advantage": torch.ones(4).double()}
    policy, behaviour = torch.full((4,), -1.0).double(), torch.full((4,), -2.0).double()
    unread, staleness = torch.full((4,), math.nan).double(), torch.tensor([0, 1, 3, 10**9])
    tokens = Tokens(policy=policy, proximal=unread, behaviour=behaviour, staleness=staleness, **column)
    log_ratio, log_weight = log_ratios(tokens, Correction.approximate)
    assert log_ratio.tolist() == pytest.approx([1.0, 0.5, 0.25, 0.0], abs=1e-8)
    assert log_weight.tolist() == pytest.approx([0.0, 0.5, 0.75, 1.0], abs=1e-8)


def test_cispo_keeps_the_gradient_of_the_tokens_that_ppo_drops() -> None:
    tokens = scene()
    terms, gradient = solve(tokens, objective(LOSSES["cispo"], CORRECTIONS["bypass"]))
    clip, clip_gradient = solve(tokens, objective(LOSSES["clip"], CORRECTIONS["bypass"]))
    assert gradient.tolist() == pytest.approx((-terms.uncorrected.ratio.clamp(max=1.4) * tokens.advantage).tolist(), rel=1e-12)
    dropped = clip.uncorrected.clipped_low | clip.uncorrected.clipped_high
    assert bool((clip_gradient[dropped] == 0).all())
    assert bool((gradient[dropped] != 0).all())
    inside = ~dropped & (terms.uncorrected.ratio < 1.4)
    torch.testing.assert_close(gradient[inside], clip_gradient[inside])


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_gspo_of_rollouts_of_one_token_is_ppo(correction: str) -> None:
    tokens = scene()
    tokens.rollout, tokens.num_rollouts = torch.arange(len(tokens.rollout)), len(tokens.rollout)
    cfg = objective(LOSSES["gspo"], CORRECTIONS[correction])
    same(solve(tokens, cfg), solve(tokens, replace(cfg, loss=Loss.clip)))


def test_gspo_has_the_gradient_of_its_sequence_form_when_a_rollout_has_one_advantage() -> None:
    """Equation 5 of the paper: mean over rollouts of ppo(exp(mean over tokens of t - old)), differentiated as it stands."""
    tokens = scene()
    per_rollout = torch.tensor([1.0, -1.0, 0.5, -2.0, 3.0, -0.5, 1.5], dtype=torch.float64)
    tokens.advantage = per_rollout[tokens.rollout]
    cfg = objective(LOSSES["gspo"], CORRECTIONS["bypass"])
    whole = torch.zeros((), dtype=torch.float64)
    for i, a in enumerate(per_rollout):
        ratio = (tokens.policy - tokens.behaviour)[tokens.rollout == i].mean().exp()
        whole = whole + torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.4)) / len(per_rollout)
    weights = 1.0 / (len(LENGTHS) * torch.tensor(LENGTHS, dtype=torch.float64)[tokens.rollout])
    ours = (weights * policy_terms(tokens, cfg).loss).sum()
    gradients = [torch.autograd.grad(value, tokens.policy)[0] for value in (whole, ours)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-15)
    assert ours.item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("loss", ["dppo_tv", "dppo_kl"])
def test_dppo_leaves_out_likely_tokens_that_ppo_keeps_and_keeps_rare_ones_that_it_drops(loss: str) -> None:
    """From .5 to .69 the ratio is 1.38, and a rare token from .001 to .005 has a ratio of 5."""
    old, new = (torch.tensor(values, dtype=torch.float64).log() for values in ([0.5, 0.001], [0.69, 0.005]))
    column = {"advantage": torch.ones(2).double(), "staleness": torch.ones(2), "rollout": torch.arange(2), "num_rollouts": 2}
    tokens = Tokens(policy=new.requires_grad_(), proximal=old, behaviour=old, **column)
    bounds: dict[str, object] = (
        {"clip_low": 0.15, "clip_high": 0.15} if loss == "dppo_tv" else {"clip_low": 0.05, "clip_high": 0.05}
    )
    terms, gradient = solve(tokens, objective({"loss": Loss[loss]}, bounds, CORRECTIONS["bypass"]))
    clip, _ = solve(tokens, objective(LOSSES["clip"], CORRECTIONS["bypass"]))
    assert terms.uncorrected.clipped_high.tolist() == [True, False]
    assert clip.uncorrected.clipped_high.tolist() == [False, True]
    assert gradient.tolist() == pytest.approx([0.0, -5.0])


def test_dppo_truncates_the_ratio_of_a_token_that_it_keeps() -> None:
    old, new = (torch.tensor([value], dtype=torch.float64).log() for value in (1e-4, 4e-3))
    column = {"advantage": torch.ones(1).double(), "staleness": torch.ones(1), "rollout": torch.arange(1), "num_rollouts": 1}
    tokens = Tokens(policy=new.requires_grad_(), proximal=old, behaviour=old, **column)
    terms, gradient = solve(tokens, objective(LOSSES["dppo_tv"], CORRECTIONS["bypass"]))
    assert terms.uncorrected.ratio.item() == pytest.approx(40.0)
    assert gradient.item() == pytest.approx(-20.0)


def test_sapo_keeps_some_gradient_outside_the_clip_and_has_its_largest_at_one() -> None:
    tokens = scene()
    terms, gradient = solve(tokens, objective(LOSSES["sapo"], CORRECTIONS["bypass"]))
    slope = gradient / (-tokens.advantage * terms.uncorrected.ratio)
    ratio = terms.uncorrected.ratio
    far = ((ratio > 1.4) & (ratio < 10)) | (ratio < 0.8)
    assert bool((slope <= 1).all())
    assert bool(((slope > 0) & (slope < 0.99))[far].all())
    clip, _ = solve(tokens, objective(LOSSES["clip"], CORRECTIONS["bypass"]))
    assert bool((far & (clip.uncorrected.clipped_low | clip.uncorrected.clipped_high)).any())


def test_m2po_with_the_bounds_of_the_clip_is_ppo() -> None:
    cfg = objective(LOSSES["m2po"] | CORRECTIONS["bypass"])
    same(solve(scene(), cfg, (0.8, 1.4)), solve(scene(), objective(LOSSES["clip"] | CORRECTIONS["bypass"])))


def test_m2po_refuses_a_mini_batch_without_the_proximal_policy() -> None:
    (samples,) = samples_under(Config(), random_batch(0))
    loss = SecondMomentLoss(objective(LOSSES["m2po"] | CORRECTIONS["bypass"]))
    with pytest.raises(AssertionError, match="proximal policy"):
        loss.for_mini_batch(pack(samples, token_budget=64, layout=PackingLayout.rows), Ranks())


def test_every_named_loss_is_in_the_table_and_says_what_it_needs() -> None:
    assert set(TABLE) == set(Loss)
    needy = {loss for loss in Loss if build_loss(objective({"loss": loss, "correction": Correction.bypass})).needs_proximal}
    assert needy == {Loss.m2po}


def test_the_dual_clip_bounds_the_loss_of_negative_advantages_only() -> None:
    tokens = scene(spread=1.0)
    plain, dual = (solve(tokens, objective({"dual_clip": c}, CORRECTIONS["ignored"]))[0] for c in (0.0, 3.0))
    negative = tokens.advantage < 0
    assert bool((dual.loss <= 3.0 * tokens.advantage.abs()).all())
    assert bool((plain.loss > 3.0 * tokens.advantage.abs())[negative].any())
    torch.testing.assert_close(dual.loss[~negative], plain.loss[~negative])


@pytest.mark.parametrize("correction", ["truncate", "bypass", "ignored"])
def test_weighted_by_the_sampler_the_expected_gradient_is_the_true_one_and_ignoring_it_is_wrong(correction: str) -> None:
    """Exact enumeration: sum over tokens of mu(token) * gradient is the gradient of E_pi[A]; proximal = policy."""
    generator = torch.Generator().manual_seed(1)
    logits, sampler, advantage = 0.3 * torch.randn(3, 9, dtype=torch.float64, generator=generator)
    policy, mu = logits.requires_grad_().log_softmax(0), sampler.log_softmax(0)
    tokens = Tokens(policy, policy.detach(), mu, advantage, torch.ones(9), torch.arange(9), 9)
    cfg = objective({"clip_low": 0.999, "clip_high": 1e9, "truncation": 1e9}, CORRECTIONS[correction])
    (got,) = torch.autograd.grad((mu.exp() * policy_terms(tokens, cfg).loss).sum(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad(-(policy.exp() * advantage).sum(), logits)
    error = float((got - exact).norm() / exact.norm())
    assert (error > 0.1) if correction == "ignored" else (error < 1e-12)


@pytest.mark.parametrize(("loss", "correction"), PAIRS)
@pytest.mark.parametrize("field", ["policy", "behaviour", "proximal"])
def test_a_non_finite_log_ratio_counts_as_zero_without_gradient(loss: str, correction: str, field: str) -> None:
    broken = torch.tensor([math.nan, math.inf, -math.inf])
    values = {"policy": torch.full((4,), -1.0), "behaviour": torch.full((4,), -1.0), "proximal": torch.full((4,), -1.0)}
    values[field][:3] = broken
    values["policy"].requires_grad_()
    tokens = Tokens(advantage=torch.ones(4), staleness=torch.ones(4), rollout=torch.zeros(4).long(), num_rollouts=1, **values)
    terms, gradient = solve(tokens, objective(LOSSES[loss], CORRECTIONS[correction]))
    assert terms.uncorrected.ratio.tolist() == terms.weight.tolist() == [1.0] * 4
    assert torch.isfinite(terms.loss).all()
    of_ratio = {
        "policy": True,
        "behaviour": correction in ("bypass", "approximate", "approximate_mask"),
        "proximal": correction in ("truncate", "mask", "ignored"),
    }
    assert gradient.tolist() == ([0.0, 0.0, 0.0, -1.0] if of_ratio[field] else [-1.0] * 4)


AWKWARD = st.floats(-1e3, 0.0, width=32) | st.sampled_from([-math.inf, math.nan, math.inf])


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(AWKWARD, AWKWARD, AWKWARD, st.floats(-4, 4, width=32)), min_size=1, max_size=6),
    pair=st.sampled_from(PAIRS),
)
def test_no_float32_input_makes_a_loss_or_gradient_that_is_not_finite(
    rows: list[tuple[float, float, float, float]], pair: tuple[str, str]
) -> None:
    loss, correction = pair
    policy, proximal, behaviour, advantage = torch.tensor(rows, dtype=torch.float32).T
    count = len(rows)
    index = torch.arange(count)
    tokens = Tokens(policy.clone().requires_grad_(), proximal, behaviour, advantage, index, index, count)
    terms, gradient = solve(tokens, objective(LOSSES[loss], CORRECTIONS[correction]))
    for values in (terms.loss, terms.uncorrected.ratio, terms.weight, gradient):
        assert torch.isfinite(values).all()
