"""A mixture of files whose prompts are drawn in the order of a curriculum's plans (curriculum.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...common.config.curriculum import CurriculumConfig
from ...common.errors import DataError
from ...common.types import Prompt
from ..journal.records import PlanRecord, PromptCursor, plan_number
from .curriculum import NOTHING, learnability, planned_order, rests
from .mixture import PromptMixture


class PlannedMixture(PromptMixture):
    """The files keep their weights against each other, and the domains of a file their shares; within them plans decide.

    A plan begins each file anew: every prompt is drawn once under it before any is drawn twice. Plan 0 knows nothing of any
    prompt. The cursor names the plan, and `recall` finds it: the journal's, for a buffer that starts again.
    """

    def __init__(self, sources: Sequence[tuple[Sequence[Prompt], float]], seed: int, rules: CurriculumConfig) -> None:
        """As PromptMixture. `rules` say what a plan's knowledge of a prompt weighs."""
        super().__init__(sources, seed)
        self.rules = rules
        self.recall: Callable[[int], PlanRecord | None] = lambda number: None
        self.number = 0
        self._domains = [_numbered([prompt.domain for prompt in prompts]) for prompts in self._prompts]
        self._plan_weights = self._weights_under(None)

    def begin(self, plan: PlanRecord) -> None:
        """Draw by this plan from now on, each file from the beginning of its order."""
        self._follow(plan.number, plan)
        self._drawn = [0] * len(self._drawn)

    def _follow(self, number: int, plan: PlanRecord | None) -> None:
        self.number, self._plan_weights = number, self._weights_under(plan)
        self._orders.clear()

    def _weights_under(self, plan: PlanRecord | None) -> list[np.ndarray]:
        known = {} if plan is None else plan.known
        unknown = learnability(NOTHING, self.rules)
        return [
            np.array([learnability(known[prompt.uid], self.rules) if prompt.uid in known else unknown for prompt in prompts])
            for prompts in self._prompts
        ]

    def _order(self, source: int, epoch: int) -> np.ndarray:
        cached = self._orders.get(source)
        if cached is None or cached[0] != epoch:
            seed = [self._seed, source, self.number, epoch]
            order = planned_order(self._plan_weights[source], self._domains[source], seed)
            cached = self._orders[source] = (epoch, order)
        return cached[1]

    @property
    def cursor(self) -> PromptCursor:
        """The present position, and the number of the plan."""
        return PromptCursor(credits=list(self._credits), drawn=list(self._drawn), position=f"plan {self.number}")

    def restore(self, cursor: PromptCursor) -> None:
        """Continue from a cursor, that of a plain mixture too. Raises DataError as PromptMixture, or if its plan is lost."""
        super().restore(cursor)
        number = plan_number(cursor)
        if number == self.number:
            return
        plan = self.recall(number) if number else None
        if number and plan is None:
            raise DataError(f"the run was recorded in plan {number} of its curriculum, which the journal no longer holds")
        self._follow(number, plan)

    def metrics(self, plan: PlanRecord | None) -> dict[str, float]:
        """What the plan knows of the prompts that the files hold."""
        known = {} if plan is None else plan.known
        resting = sum(rests(one, self.rules) for uid, one in known.items() if uid in self._by_uid)
        size = len(self._by_uid)
        return {
            "curriculum/plan": float(self.number),
            "curriculum/known": sum(uid in self._by_uid for uid in known) / size,
            "curriculum/resting": resting / size,
            "curriculum/learnability": float(np.concatenate(self._plan_weights).mean()),
        }


def _numbered(names: Sequence[str]) -> np.ndarray:
    return np.unique(np.array(names), return_inverse=True)[1]
