import msgspec
import numpy as np
import pytest
from prolong.common.config.choices import Advantage, Aggregation, Straggler
from prolong.common.config.sections import Config
from prolong.common.errors import StalenessViolation
from prolong.common.types import Batch, VersionSpan
from prolong.learner.algorithm.samples import check_staleness, token_staleness
from prolong.learner.batches.packing import Sample

from tests.support.batches import mixed_batch, random_batch, samples_under, under_eta


def with_span(batch: Batch, *spans: VersionSpan) -> Batch:
    """The batch with other spans on the first rollout of its first group."""
    group = batch.groups[0]
    rollout = msgspec.structs.replace(group.rollouts[0], spans=list(spans))
    group = msgspec.structs.replace(group, rollouts=[rollout, *group.rollouts[1:]])
    return msgspec.structs.replace(batch, groups=[group, *batch.groups[1:]])


def check(batch: Batch, *, version: int = 5, eta: int = 1, straggler: Straggler = Straggler.wait) -> None:
    check_staleness(batch, version=version, generation=1, eta=eta, straggler=straggler)


def test_a_batch_inside_the_bound_passes() -> None:
    check(random_batch(5))
    check(with_span(random_batch(5), VersionSpan(version=4, start=0, end=1)))


def test_one_token_older_than_eta_raises_and_names_the_group() -> None:
    batch = with_span(random_batch(5), VersionSpan(version=3, start=0, end=1), VersionSpan(version=5, start=1, end=2))
    with pytest.raises(StalenessViolation, match="group 15 has tokens of version 3"):
        check(batch)
    check(batch, straggler=Straggler.mask)
    check(batch, eta=2)


def test_each_group_is_held_to_the_eta_of_its_own_ticket() -> None:
    first, *others = with_span(random_batch(5), VersionSpan(version=3, start=0, end=1)).groups

    def batch(eta: int) -> Batch:
        return msgspec.structs.replace(random_batch(5), groups=[msgspec.structs.replace(first, eta=eta), *others])

    check(batch(2), eta=4)
    with pytest.raises(StalenessViolation, match=r"eta = 1 of its ticket allows 4 or newer"):
        check(batch(1), eta=4)
    with pytest.raises(StalenessViolation, match="group 15 allows a staleness of 2, this run allows 1 at most"):
        check(batch(2), eta=1, straggler=Straggler.mask)


def test_a_version_that_was_never_published_raises() -> None:
    with pytest.raises(StalenessViolation, match="never published"):
        check(with_span(random_batch(5), VersionSpan(version=6, start=0, end=1)))


def test_another_generation_or_version_raises() -> None:
    with pytest.raises(StalenessViolation, match="generation 2"):
        check(random_batch(5, generation=2))
    with pytest.raises(StalenessViolation, match="version 4"):
        check(random_batch(4))


def test_staleness_of_a_token_counts_from_the_policy_that_the_batch_is_for() -> None:
    batch = random_batch(9, longest=20)
    rollout = max((r for g in batch.groups for r in g.rollouts), key=lambda r: r.num_tokens)
    size = rollout.num_tokens
    spans = [VersionSpan(version=v, start=a, end=b) for v, a, b in ((6, 0, 3), (7, 3, 5), (9, 5, size))]
    assert token_staleness(msgspec.structs.replace(rollout, spans=spans), 9).tolist() == [3] * 3 + [2] * 2 + [0] * (size - 5)


def test_masked_tokens_are_those_older_than_eta_and_stay_in_the_denominator() -> None:
    cfg = Config()
    cfg.buffer.straggler, cfg.buffer.eta = Straggler.mask, 1
    whole = random_batch(5)
    size = whole.groups[0].rollouts[0].num_tokens
    assert size > 2
    spans = [VersionSpan(version=v, start=a, end=b) for v, a, b in ((3, 0, 1), (4, 1, 2), (5, 2, size))]
    (samples,) = samples_under(cfg, with_span(whole, *spans))
    tokens = sum(r.num_tokens for g in whole.groups for r in g.rollouts)
    assert {s.weight for s in samples} == {1 / tokens}
    assert samples[0].keep.tolist() == [False, *[True] * (size - 1)]
    assert all(s.keep.all() for s in samples[1:])
    cfg.buffer.eta = 4
    assert samples_under(cfg, under_eta(1, with_span(whole, *spans)))[0][0].keep.tolist() == samples[0].keep.tolist()
    assert samples_under(cfg, with_span(whole, *spans))[0][0].keep.all()
    cfg.buffer.straggler = Straggler.evict
    assert all(s.keep.all() for s in samples_under(cfg, with_span(whole, *spans))[0])


def naive_weights(samples: list[Sample], aggregation: Aggregation, constant: float) -> list[float]:
    """The weight of the tokens of each sample: how much one token moves the mean, by the definition of each mean."""
    weights = []
    for sample in samples:
        mine = [s for s in samples if s.group == sample.group]
        prompts = {s.group for s in samples}
        weights.append(
            {
                Aggregation.token_mean: 1 / sum(len(s.completion) for s in samples),
                Aggregation.sequence_mean: (1 / len(sample.completion)) / len(samples),
                Aggregation.sequence_sum: (1 / constant) / len(samples),
                Aggregation.prompt_mean: (1 / sum(len(s.completion) for s in mine)) / len(prompts),
            }[aggregation]
        )
    return weights


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("minibatches", [1, 2, 5])
def test_token_weights_are_of_each_update_from_counts_before_any_mask(aggregation: Aggregation, minibatches: int) -> None:
    cfg = Config()
    cfg.objective.aggregation, cfg.objective.length_constant, cfg.learner.minibatches = aggregation, 20.0, minibatches
    cfg.buffer.straggler, cfg.buffer.eta = Straggler.mask, 0
    updates = samples_under(cfg, mixed_batch(groups=5))
    assert len(updates) == minibatches
    assert sorted({s.group for update in updates for s in update}) == list(range(10, 15))
    for update in updates:
        assert not all(s.keep.all() for s in update)
        assert [s.weight for s in update] == pytest.approx(naive_weights(update, aggregation, 20.0), rel=1e-12)
        total = sum(s.weight * len(s.completion) for s in update)
        assert (total == pytest.approx(1.0)) == (aggregation is not Aggregation.sequence_sum)


def test_every_sample_has_the_temperature_of_its_own_ticket() -> None:
    (samples,) = samples_under(Config(), mixed_batch(groups=3, n=2))
    assert [s.temperature for s in samples] == [1.2, 1.2, 0.8, 0.8, 1.0, 1.0]


def test_advantages_are_of_shaped_rewards_within_each_group() -> None:
    cfg = Config()
    cfg.objective.advantage = Advantage.group_mean
    cfg.rewards.truncated, cfg.rewards.overlong_share, cfg.rewards.overlong_penalty = 0.25, 0.5, 0.5
    batch = mixed_batch(groups=2, n=3)
    (samples,) = samples_under(cfg, batch)
    for at, group in enumerate(batch.groups):
        shaped = []
        for i, rollout in enumerate(group.rollouts):
            reward = (rollout.verdict.reward or 0.0) * (0.25 if i == 0 else 1.0)
            shaped.append(reward - 0.5 * min(max((rollout.num_tokens - 10) / 10, 0.0), 1.0))
        mine = samples[3 * at : 3 * at + 3]
        assert [s.reward for s in mine] == pytest.approx(shaped)
        assert [s.advantage for s in mine] == pytest.approx([r - sum(shaped) / 3 for r in shaped])


def test_global_norm_is_over_the_tokens_of_the_whole_batch_for_any_number_of_updates() -> None:
    cfg = Config()
    cfg.objective.advantage = Advantage.global_norm
    for minibatches in (1, 4):
        cfg.learner.minibatches = minibatches
        samples = [s for update in samples_under(cfg, random_batch(0, groups=4)) for s in update]
        per_token = np.concatenate([[s.advantage] * len(s.completion) for s in samples])
        assert per_token.mean() == pytest.approx(0.0, abs=1e-12)
        assert per_token.std() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_an_empty_completion_is_refused_by_name_of_its_group(aggregation: Aggregation) -> None:
    cfg = Config()
    cfg.objective.aggregation = aggregation
    batch = random_batch(5)
    rollout = msgspec.structs.replace(batch.groups[1].rollouts[0], token_ids=b"", behaviour_logprobs=b"", spans=[])
    batch.groups[1].rollouts[0] = rollout
    with pytest.raises(ValueError, match="group 16: an empty prompt or completion"):
        samples_under(cfg, batch)
