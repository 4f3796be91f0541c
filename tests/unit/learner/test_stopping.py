"""The ranks' agreement to leave."""

from __future__ import annotations

import pytest
from prolong.common.signals import StopRequest
from prolong.learner.ranks import Ranks
from prolong.learner.stopping import Leaving, StopAgreement, go_on
from torch import Tensor


class Late(StopRequest):
    """A request of long ago."""

    def age_s(self) -> float:
        return 7.0


class Pair(Ranks):
    """One of two ranks; the other one answers as it is told."""

    def __init__(self, other: list[float]) -> None:
        super().__init__(size=2)
        self.other = other

    def sum_(self, values: Tensor) -> Tensor:
        return values.add_(values.new_tensor(self.other))


def test_nobody_leaves_unasked() -> None:
    stop = StopRequest()
    assert stop.age_s() == 0.0
    assert StopAgreement(Ranks(), stop, leave_s=0.0).ask() is Leaving.no is go_on()


@pytest.mark.parametrize(("leave_s", "answer"), [(6.0, Leaving.now), (8.0, Leaving.soon)])
def test_a_rank_alone_leaves_soon_and_at_its_deadline_now(leave_s: float, answer: Leaving) -> None:
    stop = Late()
    stop.set()
    assert StopAgreement(Ranks(), stop, leave_s=leave_s).ask() is answer


def test_a_request_to_one_rank_is_one_to_all_and_so_is_its_deadline() -> None:
    stop = StopRequest()
    assert StopAgreement(Pair([0.0, 0.0]), stop, leave_s=6.0).ask() is Leaving.no
    assert not stop.is_set()
    assert StopAgreement(Pair([1.0, 0.0]), stop, leave_s=6.0).ask() is Leaving.soon
    assert stop.is_set()
    assert StopAgreement(Pair([1.0, 1.0]), stop, leave_s=6.0).ask() is Leaving.now


def test_the_first_request_counts() -> None:
    stop = StopRequest()
    stop.set()
    since = stop._since
    stop.set()
    assert stop._since == since
    assert stop.is_set()
