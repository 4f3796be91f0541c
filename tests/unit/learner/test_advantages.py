import math

import numpy as np
import pytest
from prolong.common.config import Advantage
from prolong.learner.advantages import group_advantages


def naive(rewards: list[float]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / (deviation + 1e-6) for r in rewards]


def test_group_std_advantages_are_the_standard_scores_of_the_group() -> None:
    rewards = [0.0, 1.0, 1.0, 0.25, 0.0]
    assert group_advantages(np.array(rewards), Advantage.group_std).tolist() == pytest.approx(naive(rewards), rel=1e-12)


def test_group_mean_advantages_keep_the_scale_of_the_rewards() -> None:
    assert group_advantages(np.array([0.0, 2.0, 4.0]), Advantage.group_mean).tolist() == [-2.0, 0.0, 2.0]


def test_a_group_of_equal_rewards_has_no_advantage() -> None:
    assert group_advantages(np.ones(4), Advantage.group_std).tolist() == [0.0] * 4
