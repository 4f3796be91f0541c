"""Advantages against loops over rewards; the global normalisation against a list with one entry per token."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prolong.common.config.choices import Advantage
from prolong.learner.algorithm.advantages import ADVANTAGES, batch_advantages, normalise_globally

REWARDS = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=8)


def of_one_group(rewards: np.ndarray, kind: Advantage) -> np.ndarray:
    """The advantages of a group; of global_norm the part before the normalisation over the batch."""
    rule = Advantage.group_mean if kind is Advantage.global_norm else kind
    return batch_advantages([rewards], [np.ones(len(rewards))], rule)[0]


def naive(rewards: list[float], kind: Advantage) -> list[float]:
    mean = sum(rewards) / len(rewards)
    if len(rewards) == 1 or len(set(rewards)) == 1:
        return [0.0] * len(rewards)
    if kind is Advantage.group_std:
        deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
        return [(r - mean) / (deviation + 1e-6) for r in rewards]
    if kind is Advantage.leave_one_out:
        return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]
    return [r - mean for r in rewards]


@given(rewards=REWARDS, kind=st.sampled_from(list(Advantage)))
def test_advantages_of_a_group_equal_the_naive_ones(rewards: list[float], kind: Advantage) -> None:
    got = of_one_group(np.array(rewards), kind)
    assert got.tolist() == pytest.approx(naive(rewards, kind), rel=1e-9, abs=1e-9)
    assert got.dtype == np.float64


def test_known_values() -> None:
    rewards = np.array([0.0, 2.0, 4.0])
    assert of_one_group(rewards, Advantage.group_mean).tolist() == [-2.0, 0.0, 2.0]
    assert of_one_group(rewards, Advantage.global_norm).tolist() == [-2.0, 0.0, 2.0]
    assert of_one_group(rewards, Advantage.leave_one_out).tolist() == [-3.0, 0.0, 3.0]
    assert of_one_group(rewards, Advantage.group_std).tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-6)


def test_global_norm_is_the_normalised_group_mean_and_every_named_advantage_is_in_the_table() -> None:
    rewards, lengths = [np.array([0.0, 2.0, 4.0]), np.array([1.0, 1.0])], [np.array([1, 5, 2]), np.array([3, 3])]
    got = batch_advantages(rewards, lengths, Advantage.global_norm)
    expected = normalise_globally([of_one_group(group, Advantage.group_mean) for group in rewards], lengths)
    assert [group.tolist() for group in got] == [group.tolist() for group in expected]
    assert set(ADVANTAGES) == set(Advantage)


@pytest.mark.parametrize("kind", list(Advantage))
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -3.3, 1e6 + 0.1])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_equal_rewards_and_a_group_of_one_have_advantages_of_exactly_zero(kind: Advantage, reward: float, size: int) -> None:
    assert of_one_group(np.full(size, reward), kind).tolist() == [0.0] * size


def naive_normalised(advantages: list[list[float]], lengths: list[list[int]]) -> list[list[float]]:
    pairs = [pair for a, n in zip(advantages, lengths, strict=True) for pair in zip(a, n, strict=True)]
    tokens = [a for a, n in pairs for _ in range(n)]
    mean = sum(tokens) / len(tokens)
    variance = sum((a - mean) ** 2 for a in tokens) / len(tokens)
    return [[(a - mean) / math.sqrt(max(variance, 1e-8)) for a in group] for group in advantages]


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-5, 5).map(lambda x: round(x, 3)), st.integers(1, 9)), min_size=1, max_size=5),
        min_size=1,
        max_size=5,
    )
)
def test_global_normalisation_weighs_every_rollout_by_its_tokens(groups: list[list[tuple[float, int]]]) -> None:
    advantages = [[a for a, _ in group] for group in groups]
    lengths = [[n for _, n in group] for group in groups]
    got = normalise_globally([np.array(a) for a in advantages], [np.array(n) for n in lengths])
    expected = naive_normalised(advantages, lengths)
    assert [len(group) for group in got] == [len(group) for group in expected]
    for ours, naive_group in zip(got, expected, strict=True):
        assert ours.tolist() == pytest.approx(naive_group, rel=1e-6, abs=1e-6)


def test_after_global_normalisation_the_tokens_have_mean_zero_and_variance_one() -> None:
    advantages, lengths = [np.array([-1.0, 1.0]), np.array([-0.2, 0.2, 0.0])], [np.array([3, 500]), np.array([10, 20, 1])]
    tokens = np.repeat(np.concatenate(normalise_globally(advantages, lengths)), np.concatenate(lengths))
    assert tokens.mean() == pytest.approx(0.0, abs=1e-12)
    assert tokens.var() == pytest.approx(1.0, rel=1e-12)


def test_a_variance_near_zero_is_clamped() -> None:
    assert normalise_globally([np.zeros(1)], [np.array([7])])[0].tolist() == [0.0]
    assert normalise_globally([np.zeros(3), np.zeros(2)], [np.ones(3), np.ones(2)])[1].tolist() == [0.0, 0.0]
    tiny = normalise_globally([np.array([-1e-6, 1e-6])], [np.ones(2)])[0]
    assert tiny.tolist() == pytest.approx([-1e-6 / 1e-4, 1e-6 / 1e-4])


def test_rollouts_whose_tokens_all_left_the_loss_do_not_count() -> None:
    got = normalise_globally([np.array([-1.0, 1.0, 50.0])], [np.array([2, 2, 0])])[0]
    assert got.tolist() == [-1.0, 1.0, 50.0]
    assert normalise_globally([np.array([1.0, -1.0])], [np.zeros(2)])[0].tolist() == pytest.approx([1e4, -1e4])
