"""A curriculum: prompts in the order of what can be learned from them, by the pass rates of their rollouts.

    groups -> Observation of each -> next_plan, every few versions -> PlanRecord: what is known of each prompt
    PlanRecord -> learnability -> planned_order: the order in which a source is drawn until the next plan

Each function is pure. The buffer records observations and plans, and `check_plans` makes the plans again from the records.

A prompt's pass rate is the mean reward of its rollouts, with Beta(1, 1) before the first; its weight is the
expectation of p (1 - p), the variance of its rewards, without which a group teaches nothing (arXiv 2504.03380). A prompt that
is solved rests: it comes after all others of its domain. What is known fades with every plan, so that a resting prompt is tried
again; at a plateau nearly all of it is given up at once.
Random order with these weights: Efraimidis and Spirakis 2006.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...common.config.curriculum import CurriculumConfig
from ...common.types import Prompt, ValidationScore, ValidationSetting
from ..journal.records import Known, Observation, PlanRecord, SweepNote

# Number of these rules; see `adaptive.LAW`.
PLAN_LAW = 1
MIN_SEEN = 4.0  # rollouts that show that a prompt is solved
FORGOTTEN = 0.5  # rollouts: what is known of fewer is not kept
PLATEAU_KEEPS = 0.1  # share of what is known that a plateau leaves
EQUAL_SCORE = 1e-9
MAX_UNIT = 1.0 - 2.0**-53
FIRST, PLATEAU = "first plan", "plateau"


def observed(prompt: Prompt, rewards: Sequence[float]) -> Observation:
    """What the rollouts of one group say of their prompt. Rewards count as shares of 1."""
    return Observation(prompt.uid, len(rewards), sum(min(1.0, max(0.0, reward)) for reward in rewards))


def is_due(last: PlanRecord | None, version: int, generation: int, rules: CurriculumConfig) -> bool:
    """Whether a plan is made when the learner has made `version`; one that was made is not made again by repeated steps."""
    if version == 0 or version % rules.every:
        return False
    return last is None or (generation, version) > (last.generation, last.version)


def next_plan(
    last: PlanRecord | None,
    seen: Iterable[Observation],
    sweeps: Sequence[SweepNote],
    rules: CurriculumConfig,
    *,
    version: int,
    generation: int,
    num_observations: int,
) -> PlanRecord:
    """The plan after `last`. `seen`: what was observed since. `sweeps`: validation since. `num_observations`: of the run."""
    best, since = (-1.0, 0) if last is None else (last.best, last.since)
    for sweep in sweeps:
        better = sweep.score > best + EQUAL_SCORE
        best, since = (sweep.score, 0) if better else (best, since + 1)
    on_plateau = 0 < rules.plateau <= since
    known = {} if last is None else {uid: faded(one, rules.memory) for uid, one in last.known.items()}
    for one in seen:
        before = known.get(one.uid, NOTHING)
        known[one.uid] = Known(before.rollouts + one.rollouts, before.reward + one.reward)
    if on_plateau:
        known = {uid: faded(one, PLATEAU_KEEPS) for uid, one in known.items()}
    return PlanRecord(
        number=1 if last is None else last.number + 1,
        law=PLAN_LAW,
        version=version,
        generation=generation,
        why=PLATEAU if on_plateau else FIRST if last is None else "",
        rules=rules,
        num_observations=num_observations,
        sweeps=list(sweeps),
        best=best,
        since=0 if on_plateau else since,
        known={uid: one for uid, one in known.items() if one.rollouts >= FORGOTTEN},
    )


NOTHING = Known(0.0, 0.0)


def faded(known: Known, share: float) -> Known:
    """The same pass rate, of fewer rollouts."""
    return Known(known.rollouts * share, known.reward * share)


def learnability(known: Known, rules: CurriculumConfig) -> float:
    """The weight of a prompt, in [0, 1]: four times the expectation of p (1 - p); 0 for one that rests."""
    if rests(known, rules):
        return 0.0
    right, wrong = known.reward + 1.0, known.rollouts - known.reward + 1.0
    total = right + wrong
    return 4.0 * right * wrong / (total * (total + 1.0))


def rests(known: Known, rules: CurriculumConfig) -> bool:
    """Whether a prompt counts as solved."""
    return known.rollouts >= MIN_SEEN and known.reward >= rules.solved * known.rollouts


def planned_order(weights: np.ndarray, domains: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """The order in which the prompts of a source are drawn: a permutation, [P].

    weights: [P], 0 for those that come last. domains: [P] int, the domain of each: every stretch of the order holds a
    domain as often as its share of the prompts says. The same for the same seed.
    """
    noise = np.minimum(np.random.default_rng(list(seed)).random(len(weights)), MAX_UNIT)
    # the first is prompt i with probability w_i / sum(w), and so on among the rest
    arrival = np.full(len(weights), np.inf)
    np.divide(-np.log1p(-noise), weights, out=arrival, where=weights > 0)
    first_to_last = np.lexsort((noise, arrival))
    place = np.empty(len(weights))
    for domain in np.unique(domains):
        members = first_to_last[domains[first_to_last] == domain]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((domains, place))


def sweep_notes(scores: Iterable[ValidationScore], after: int) -> list[SweepNote]:
    """What the sampled sweeps of versions beyond `after` scored, in order of versions."""
    sampled = [score for score in scores if score.setting is ValidationSetting.sampled and score.version > after]
    return [SweepNote(score.version, score.mean) for score in sorted(sampled, key=lambda score: score.version)]


def newest_sweep(last: PlanRecord | None, generation: int) -> int:
    """The version of the newest sweep that the plans of this generation heard of."""
    if last is None or last.generation != generation:
        return -1
    return max((sweep.version for sweep in last.sweeps), default=last.version - 1)


class WrongPlan(NamedTuple):
    """A recorded plan that does not follow from what is recorded with and before it."""

    number: int
    why: str

    def sentence(self) -> str:
        """All of it."""
        return f"plan {self.number} of the curriculum: {self.why}"


def check_plans(plans: Sequence[PlanRecord], seen: Mapping[int, Sequence[Observation]]) -> list[WrongPlan]:
    """Make every recorded plan again whose predecessor and observations are recorded; the wrong ones.

    seen: lists of observations, by the number of their first. Plans of other rules than PLAN_LAW are left out.
    """
    wrong: list[WrongPlan] = []
    flat = {first + index: one for first, ones in seen.items() for index, one in enumerate(ones)}
    before: dict[int, PlanRecord | None] = {0: None} | {plan.number: plan for plan in plans}
    for plan in plans:
        last = before.get(plan.number - 1)
        if plan.law != PLAN_LAW or plan.number - 1 not in before:
            continue
        numbers = range(0 if last is None else last.num_observations, plan.num_observations)
        if not all(number in flat for number in numbers):
            continue
        again = next_plan(
            last,
            [flat[number] for number in numbers],
            plan.sweeps,
            plan.rules,
            version=plan.version,
            generation=plan.generation,
            num_observations=plan.num_observations,
        )
        if again != plan:
            said = f"{len(plan.known)} prompts known, best score {plan.best:g}"
            wrong.append(
                WrongPlan(plan.number, f"it records {said}; its observations make {len(again.known)} and {again.best:g}")
            )
    return wrong
