import msgspec
import pytest
from batches import random_batch
from prolong.common.config import Aggregation, Config, Straggler
from prolong.common.errors import StalenessViolation
from prolong.common.types import Batch, VersionSpan
from prolong.learner.samples import check_staleness, fresh_tokens, samples_of


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


def test_a_version_that_was_never_published_raises() -> None:
    with pytest.raises(StalenessViolation, match="never published"):
        check(with_span(random_batch(5), VersionSpan(version=6, start=0, end=1)))


def test_another_timeline_or_version_raises() -> None:
    with pytest.raises(StalenessViolation, match="generation 2"):
        check(random_batch(5, generation=2))
    with pytest.raises(StalenessViolation, match="version 4"):
        check(random_batch(4))


def test_masked_tokens_are_those_of_old_spans_only() -> None:
    batch = random_batch(9, longest=20)
    rollout = max((r for g in batch.groups for r in g.rollouts), key=lambda r: r.num_tokens)
    size = rollout.num_tokens
    rollout = msgspec.structs.replace(
        rollout,
        spans=[
            VersionSpan(version=6, start=0, end=3),
            VersionSpan(version=7, start=3, end=5),
            VersionSpan(version=9, start=5, end=size),
        ],
    )
    assert fresh_tokens(rollout, 7).tolist() == [False] * 3 + [True] * (size - 3)


def test_masked_tokens_stay_in_the_denominator() -> None:
    cfg = Config()
    cfg.buffer.straggler, cfg.buffer.eta = Straggler.mask, 0
    whole = random_batch(5)
    size = whole.groups[0].rollouts[0].num_tokens
    batch = with_span(whole, VersionSpan(version=4, start=0, end=size))
    (samples,) = samples_of(batch, cfg)
    tokens = sum(r.num_tokens for g in batch.groups for r in g.rollouts)
    assert {s.weight for s in samples} == {1 / tokens}
    assert not samples[0].keep.any()
    assert all(s.keep.all() for s in samples[1:])


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("minibatches", [1, 2, 5])
def test_token_weights_of_each_update_sum_to_one(aggregation: Aggregation, minibatches: int) -> None:
    cfg = Config()
    cfg.objective.aggregation, cfg.learner.minibatches = aggregation, minibatches
    updates = samples_of(random_batch(0, groups=5), cfg)
    assert len(updates) == minibatches
    assert sorted({s.group for update in updates for s in update}) == list(range(5))
    for update in updates:
        assert sum(s.weight * len(s.completion) for s in update) == pytest.approx(1.0)
        if aggregation is Aggregation.sequence_mean:
            shares = [s.weight * len(s.completion) for s in update]
            assert shares == pytest.approx([1 / len(update)] * len(update))
