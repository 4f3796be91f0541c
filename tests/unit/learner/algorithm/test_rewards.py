"""Shaping of rewards by length, against a loop written from the formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prolong.common.config.algorithm import RewardsConfig
from prolong.learner.algorithm.rewards import cosine_active, shape_rewards

T = 100
ROWS = st.lists(st.tuples(st.floats(-5, 5), st.integers(0, T), st.booleans()), min_size=1, max_size=8)


def naive(reward: float, t: int, truncated: bool, version: int, cfg: RewardsConfig) -> float:
    if truncated:
        reward = cfg.truncated * reward
    cycle = cfg.cosine_on + cfg.cosine_off
    if cycle and version % cycle < cfg.cosine_on and reward > 0:
        reward *= cfg.cosine_min + 0.5 * (cfg.cosine_max - cfg.cosine_min) * (1 + math.cos(math.pi * t / T))
    if cfg.overlong_share:
        last = cfg.overlong_share * T
        reward -= cfg.overlong_penalty * min(max((t - (T - last)) / last, 0.0), 1.0)
    return reward


def shaped(rows: list[tuple[float, int, bool]], version: int, cfg: RewardsConfig) -> list[float]:
    rewards, lengths, truncated = (np.array(column) for column in zip(*rows, strict=True))
    before = rewards.copy()
    result = shape_rewards(rewards, lengths, truncated, max_tokens=T, version=version, cfg=cfg)
    assert rewards.tolist() == before.tolist()
    assert result.dtype == np.float64
    return result.tolist()


@given(rows=ROWS, version=st.integers(0, 50), truncated=st.sampled_from([0.0, 0.5, 1.0]), on=st.integers(0, 3),
       off=st.integers(0, 3), overlong=st.sampled_from([0.0, 0.01, 0.2, 1.0]))  # fmt: skip
def test_shaping_equals_the_formulas(
    rows: list[tuple[float, int, bool]], version: int, truncated: float, on: int, off: int, overlong: float
) -> None:
    cfg = RewardsConfig(
        truncated=truncated, cosine_on=on, cosine_off=off, cosine_min=0.2, cosine_max=1.1, overlong_share=overlong,
        overlong_penalty=0.7,
    )  # fmt: skip
    assert shaped(rows, version, cfg) == pytest.approx([naive(*row, version, cfg) for row in rows], rel=1e-12, abs=1e-12)


@given(rows=ROWS, version=st.integers(0, 10**6))
def test_by_default_nothing_changes(rows: list[tuple[float, int, bool]], version: int) -> None:
    assert shaped(rows, version, RewardsConfig()) == [reward for reward, _, _ in rows]


def test_the_papers_coefficient_takes_the_reward_of_cut_off_answers() -> None:
    assert shaped([(1.0, T, True), (1.0, T, False), (0.5, 3, False)], 0, RewardsConfig(truncated=0.0)) == [0.0, 1.0, 0.5]


def test_the_cosine_goes_from_its_maximum_to_its_minimum_and_spares_what_is_not_positive() -> None:
    cfg = RewardsConfig(cosine_on=1)
    rows = [(1.0, 0, False), (1.0, T // 2, False), (1.0, T, False), (-1.0, T, False), (0.0, T, False)]
    assert shaped(rows, 7, cfg) == pytest.approx([1.0, 0.75, 0.5, -1.0, 0.0])


def test_the_cosines_schedule_is_a_function_of_the_version_only() -> None:
    cfg = RewardsConfig(cosine_on=2, cosine_off=3)
    cycle = [True, True, False, False, False]
    assert [cosine_active(version, cfg) for version in range(10)] == cycle * 2
    changed = [shaped([(1.0, T, False)], version, cfg) == [0.5] for version in range(10)]
    assert changed == cycle * 2
    assert not any(cosine_active(version, RewardsConfig(cosine_off=5)) for version in range(10))


def test_the_overlong_penalty_is_linear_over_the_last_share_of_tokens() -> None:
    cfg = RewardsConfig(overlong_share=0.2, overlong_penalty=1.0)
    rows = [(1.0, 79, False), (1.0, 80, False), (1.0, 90, False), (0.0, 95, False), (1.0, 100, True)]
    assert shaped(rows, 0, cfg) == pytest.approx([1.0, 1.0, 0.5, -0.75, 0.0])


def test_the_truncation_coefficient_comes_before_the_cosine_and_the_penalty_last() -> None:
    cfg = RewardsConfig(truncated=0.5, cosine_on=1, overlong_share=0.1, overlong_penalty=1.0)
    assert shaped([(2.0, T, True)], 0, cfg) == pytest.approx([2.0 * 0.5 * 0.5 - 1.0])
