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

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...common.config.curriculum import CurriculumConfig
from ...common.types import Prompt, ValidationScore, ValidationSetting
from ..journal.records import Known, Observation, PlanOutline, PlanRecord, SweepNote

# Number of these rules; see `adaptive.LAW`.
PLAN_LAW = 1
MIN_SEEN = 4.0  # rollouts that show that a prompt is solved
FORGOTTEN = 0.5  # rollouts: what is known of fewer is not kept
PLATEAU_KEEPS = 1.0  # rollouts: what a plateau leaves of what is known of a prompt, fewer than MIN_SEEN
EQUAL_SCORE = 1e-9
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
    """The plan after `last`. `seen`: what was observed since. `num_observations`: of the run.

    `sweeps`: validation since. The first plan of a generation hears of all that is left, and counts them anew.
    """
    best, since = (last.best, last.since) if last is not None and last.generation == generation else (-1.0, 0)
    for sweep in sweeps:
        better = sweep.score > best + EQUAL_SCORE
        best, since = (sweep.score, 0) if better else (best, since + 1)
    on_plateau = 0 < rules.plateau <= since
    known = {} if last is None else {uid: faded(one, rules.memory) for uid, one in last.known.items()}
    for one in seen:
        before = known.get(one.uid, NOTHING)
        known[one.uid] = Known(before.rollouts + one.rollouts, before.reward + one.reward)
    if on_plateau:
        known = {uid: faded(one, min(1.0, PLATEAU_KEEPS / one.rollouts)) for uid, one in known.items() if one.rollouts > 0}
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
        heard=max((sweep.version for sweep in sweeps), default=newest_sweep(last, generation)),
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

    weights: [P], 0 for those that come last. domains: [P] int, the domain of each: every stretch of the order holds the same
    part of each domain, to within one prompt. The same for the same seed.
    """
    generator = np.random.default_rng(list(seed))
    noise = generator.random(len(weights))
    # the first is prompt i with probability w_i / sum(w), and so on among the rest
    arrival = np.full(len(weights), np.inf)
    np.divide(-np.log1p(-noise), weights, out=arrival, where=weights > 0)
    # one domain after the other, each from its first prompt to its last
    members = np.lexsort((noise, arrival, domains))
    sizes = np.bincount(domains)
    rank = np.arange(len(weights)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # Where a domain begins is drawn: at a fixed place, plans that are drawn in part would all leave out the same small ones.
    begin = generator.random(len(sizes))
    place = np.empty(len(weights))
    place[members] = (rank + np.repeat(begin, sizes)) / np.repeat(sizes, sizes)
    return np.lexsort((domains, place))


def sweep_notes(scores: Iterable[ValidationScore], after: int) -> list[SweepNote]:
    """What the sampled sweeps of versions beyond `after` scored, in order of versions."""
    sampled = [score for score in scores if score.setting is ValidationSetting.sampled and score.version > after]
    return [SweepNote(score.version, score.mean) for score in sorted(sampled, key=lambda score: score.version)]


def newest_sweep(last: PlanRecord | None, generation: int) -> int:
    """The version of the newest sweep that the plans of this generation heard of; -1 for none."""
    return last.heard if last is not None and last.generation == generation else -1


class WrongPlan(NamedTuple):
    """A recorded plan that does not follow from what is recorded with and before it."""

    number: int
    why: str

    def sentence(self) -> str:
        """All of it."""
        return f"plan {self.number} of the curriculum: {self.why}"


def plan_again(
    number: int,
    last: PlanRecord | None,
    outline_of: Callable[[int], PlanOutline | None],
    seen: Mapping[int, Sequence[Observation]],
) -> PlanRecord | None:
    """Make the plans after `last` again, up to `number`. `seen`: lists of observations, by the number of their first.

    None when an outline or observations are gone, or a plan was made by other rules than PLAN_LAW.
    """
    flat = numbered(seen)
    for each in range(1 if last is None else last.number + 1, number + 1):
        outline = outline_of(each)
        if outline is None or outline.law != PLAN_LAW:
            return None
        last = _made_again(last, outline, flat)
        if last is None:
            return None
    return last


def numbered(seen: Mapping[int, Sequence[Observation]]) -> dict[int, Observation]:
    """Each observation by its number."""
    return {first + index: one for first, ones in seen.items() for index, one in enumerate(ones)}


def check_plans(plans: Iterable[PlanOutline], seen: Mapping[int, Sequence[Observation]]) -> list[WrongPlan]:
    """Make every recorded plan again whose predecessor and observations are recorded; the wrong ones.

    plans: in order of their numbers, PlanRecord where there is one; two of them are held at a time, because each knows every
    prompt. seen: lists of observations, by the number of their first. Plans of other rules than PLAN_LAW are left out.
    """
    wrong: list[WrongPlan] = []
    flat = numbered(seen)
    last: PlanRecord | None = None
    for plan in plans:
        follows = plan.number == (1 if last is None else last.number + 1)
        again = _made_again(last, plan, flat) if follows and plan.law == PLAN_LAW else None
        is_whole = isinstance(plan, PlanRecord)
        if again is not None and (again if is_whole else again.outline) != plan:
            said = f"{len(plan.known) if is_whole else 'any'} prompts known, best score {plan.best:g}"
            wrong.append(
                WrongPlan(plan.number, f"it records {said}; its observations make {len(again.known)} and {again.best:g}")
            )
        last = plan if is_whole else again
    return wrong


def _made_again(last: PlanRecord | None, plan: PlanOutline, seen: Mapping[int, Observation]) -> PlanRecord | None:
    """What follows from `last` and what was observed until `plan`; None when observations are gone."""
    numbers = range(0 if last is None else last.num_observations, plan.num_observations)
    if not all(number in seen for number in numbers):
        return None
    return next_plan(
        last,
        [seen[number] for number in numbers],
        plan.sweeps,
        plan.rules,
        version=plan.version,
        generation=plan.generation,
        num_observations=plan.num_observations,
    )
