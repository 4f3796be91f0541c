from __future__ import annotations

import pytest
from prolong.buffer.tickets.filters import Judgement, SignalFilter, has_signal
from prolong.common.types import Group, TicketKind, ValidationSetting

from ..scene import SAMPLING, prompt, rollout


def rewarded(*rewards: float) -> Group:
    return Group(
        ordinal=0,
        kind=TicketKind.train,
        generation=1,
        prompt=prompt(),
        setting=ValidationSetting.none,
        sampling=SAMPLING,
        rollouts=[rollout(0, reward=reward) for reward in rewards],
        actor="a",
        seconds=1.0,
    )


@pytest.mark.parametrize(("rewards", "signal"), [((1, 1), False), ((0, 0, 0), False), ((0, 1), True), ((0.5, 0.50001), True)])
def test_equal_rewards_carry_no_signal(rewards: tuple[float, ...], signal: bool) -> None:
    assert has_signal(rewarded(*rewards)) is signal


def test_at_most_the_limit_is_dropped_between_two_batches() -> None:
    judge = SignalFilter(enabled=True, limit=2)
    flat = rewarded(1, 1)
    assert [judge.judge(flat) for _ in range(3)] == [Judgement.drop, Judgement.drop, Judgement.bypass]
    assert judge.judge(rewarded(0, 1)) is Judgement.keep
    judge.next_step()
    assert judge.judge(flat) is Judgement.drop


def test_without_dynamic_sampling_everything_is_kept() -> None:
    assert SignalFilter(enabled=False, limit=5).judge(rewarded(1, 1)) is Judgement.keep
