"""Leaving before the run is over: a signal to one rank is a signal to all of them, and they leave at the same place.

signal -> StopRequest of a rank -> StopAgreement.ask, between two micro-batches and between two steps -> Leaving
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch

from ..common.signals import StopRequest
from .ranks import Ranks


class Leaving(Enum):
    """What all ranks do next."""

    # go on
    no = 0
    # leave as soon as that loses no finished work
    soon = 1
    # leave: the time for that is over
    now = 2


class StepDropped(Exception):
    """A step was left in the middle. Its batch is recorded: a learner that resumes takes the whole step again.

    `unchanged`: policy and optimizer are still those of the step before, and can be saved.
    """

    def __init__(self, *, unchanged: bool) -> None:
        super().__init__("told to stop in the middle of a step")
        self.unchanged = unchanged


# asks all ranks whether to leave
AskLeave = Callable[[], Leaving]


def go_on() -> Leaving:
    """The answer where nothing can ask a learner to leave."""
    return Leaving.no


class StopAgreement:
    """Whether all ranks are to leave.

    The ranks exchange their answers on the CPU, without a word to the GPU: kernels that are queued there run on meanwhile.
    """

    def __init__(self, ranks: Ranks, stop: StopRequest, *, leave_s: float) -> None:
        """`stop`: the request to this rank; set here when another rank has one. `leave_s`: seconds from it to Leaving.now."""
        self._ranks, self._stop, self._leave_s = ranks, stop, leave_s

    def ask(self) -> Leaving:
        """Return what all ranks do next. Collective. Raises: RuntimeError when another rank is gone."""
        asked, late = self._stop.is_set(), self._stop.age_s() > self._leave_s
        if self._ranks.size > 1:
            asked, late = (self._ranks.sum_(torch.tensor([float(asked), float(late)])) > 0).tolist()
        if not asked:
            return Leaving.no
        self._stop.set()
        return Leaving.now if late else Leaving.soon
