"""The curriculum of a run: what its groups say of their prompts, and the plans that follow.

take_group -> observe -> Observation in the journal
StepDone   -> due -> plan -> PlanRecord in the journal -> the source's order of prompts
"""

from __future__ import annotations

from ...common.types import Group, ValidationScore
from ..journal.journal import Journal
from ..journal.records import Observation, PlanRecord
from ..tickets.curriculum import is_due, newest_sweep, next_plan, observed, plan_again, sweep_notes
from ..tickets.planned_mixture import PlannedMixture


class CurriculumControl:
    """Observations since the newest plan, and that plan."""

    def __init__(self, source: PlannedMixture, journal: Journal) -> None:
        self._source, self._journal = source, journal
        source.recall = self._recall
        self._since: list[Observation] = []
        # since the last `flush`
        self._unwritten: list[Observation] = []
        self._last: PlanRecord | None = None
        self._metrics: dict[str, float] = {}

    def observe(self, group: Group) -> None:
        """Hear of a group that was scored, whatever becomes of it."""
        rewards = [rollout.verdict.reward for rollout in group.rollouts if rollout.verdict.reward is not None]
        if rewards:
            one = observed(group.prompt, rewards)
            self._since.append(one)
            self._unwritten.append(one)

    def flush(self) -> None:
        """Add what was observed since the last call to the journal's pending changes."""
        if self._unwritten:
            self._journal.add_observations(self._unwritten)
            self._unwritten = []

    def is_due(self, version: int, generation: int) -> bool:
        """Whether a plan is made now that the learner made `version`."""
        return is_due(self._last, version, generation, self._source.rules)

    def plan(self, version: int, generation: int, scores: list[ValidationScore]) -> None:
        """Make the next plan, record it, and let the source follow it. `scores`: the run's validation so far."""
        self.flush()
        sweeps = sweep_notes(scores, newest_sweep(self._last, generation))
        record = next_plan(
            self._last,
            self._since,
            sweeps,
            self._source.rules,
            version=version,
            generation=generation,
            num_observations=self._journal.num_observations,
        )
        self._journal.log_plan(record)
        self._last, self._since = record, []
        self._source.begin(record)

    def metrics(self) -> dict[str, float]:
        """Of the plan in force, for the record of a step."""
        if self._metrics.get("curriculum/plan") != self._source.number:
            self._metrics = self._source.metrics(self._recall(self._source.number))
        return self._metrics

    def _recall(self, number: int) -> PlanRecord | None:
        """A plan of the journal: as it is there, or made again from the last whole one before it."""
        journal = self._journal
        whole = [each for each in journal.plans() if each <= number]
        last = journal.plan(whole[-1]) if whole else None
        if last is not None and last.number == number:
            return last
        return plan_again(number, last, journal.plan_outline, journal.observations())

    @property
    def state(self) -> tuple[PlanRecord | None, tuple[Observation, ...]]:
        """The newest plan, and what was observed since."""
        return self._last, tuple(self._since)

    def restore(self) -> None:
        """Become what the journal describes; before the source is restored."""
        self._last = self._journal.newest_plan()
        self._since = self._journal.observations_from(0 if self._last is None else self._last.num_observations)
