"""The contract of algorithm/api.py, for every loss of the table."""

from dataclasses import fields

import pytest
import torch
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Correction, Loss
from prolong.common.config.sections import Config
from prolong.learner.algorithm.api import LossTerms, Tokens
from prolong.learner.algorithm.losses.table import build_loss
from prolong.learner.batches.packing import MicroBatch, PackingLayout, pack
from prolong.learner.ranks import Ranks
from torch import Tensor

from tests.support.batches import mixed_batch, samples_under


def micro_batches() -> list[MicroBatch]:
    """Several micro-batches with a proximal policy near the sampler."""
    (samples,) = samples_under(Config(), mixed_batch())
    micros = pack(samples, token_budget=60, layout=PackingLayout.documents)
    assert len(micros) > 2
    generator = torch.Generator().manual_seed(0)
    for micro in micros:
        micro.proximal = micro.behaviour + 0.3 * torch.randn(len(micro.behaviour), generator=generator)
    return micros


def tokens_of(micro: MicroBatch) -> tuple[Tokens, Tensor]:
    """The tokens of a micro-batch under a policy that has moved, and the logarithm of their ratio to the proximal policy."""
    assert micro.proximal is not None
    policy = (micro.proximal + torch.linspace(-0.8, 0.8, len(micro.proximal))).requires_grad_()
    tokens = Tokens(
        policy=policy,
        proximal=micro.proximal,
        behaviour=micro.behaviour,
        advantage=micro.advantage,
        staleness=micro.staleness,
        rollout=micro.rollout,
        num_rollouts=micro.num_rollouts,
        group=micro.group,
    )
    return tokens, policy - micro.proximal


def copies(values: object) -> dict[str, Tensor]:
    """Copies of all tensors of a dataclass, by field."""
    found = {field.name: getattr(values, field.name) for field in fields(values)}  # pyright: ignore[reportArgumentType]
    return {name: value.detach().clone() for name, value in found.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("loss", list(Loss))
def test_every_loss_keeps_the_contract(loss: Loss) -> None:
    policy_loss = build_loss(ObjectiveConfig(loss=loss, correction=Correction.bypass))
    micros = micro_batches()
    before = [copies(micro) for micro in micros]
    token_loss = policy_loss.for_mini_batch(micros, Ranks())
    assert all(name.startswith("policy/") for name in token_loss.metrics())
    for micro, unchanged in zip(micros, before, strict=True):
        tokens, log_ratio = tokens_of(micro)
        kept = copies(tokens)
        terms = token_loss(tokens, log_ratio)
        assert isinstance(terms, LossTerms)
        count = len(micro.advantage)
        assert {len(getattr(terms, field.name)) for field in fields(terms)} == {count}
        assert terms.loss.requires_grad
        assert not terms.ratio.requires_grad
        assert {flag.dtype for flag in (terms.clipped_low, terms.clipped_high, terms.clipped_dual)} == {torch.bool}
        (gradient,) = torch.autograd.grad(terms.loss.sum(), tokens.policy)
        assert torch.isfinite(gradient).all()
        for name, value in copies(tokens).items():
            assert torch.equal(value, kept[name]), name
        for name, value in copies(micro).items():
            assert torch.equal(value, unchanged[name]), name


@pytest.mark.parametrize("loss", list(Loss))
def test_spare_micro_batches_do_not_count(loss: Loss) -> None:
    policy_loss = build_loss(ObjectiveConfig(loss=loss, correction=Correction.bypass))
    micros, spares = micro_batches(), micro_batches()[:2]
    for spare in spares:
        spare.weight = torch.zeros_like(spare.weight)
        spare.proximal = spare.behaviour + 3.0
    plain, spared = (policy_loss.for_mini_batch(each, Ranks()) for each in (micros, micros + spares))
    tokens, log_ratio = tokens_of(micros[0])
    assert torch.equal(plain(tokens, log_ratio).loss, spared(tokens, log_ratio).loss)
