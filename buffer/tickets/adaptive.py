"""An eta that adapts: the smallest at which waiting costs little, as long as its data stay near the policy.

    StepEvidence of the learner + seconds held back, of the buffer -> EtaEvidence -> decide_eta -> eta of tickets from now on

`decide_eta` is a pure function of recorded numbers. The buffer calls it once for every version that the learner made, and
records the evidence with what was decided; `check_decisions` repeats all of it from the records, to the bit.

The rules, over the last `window` steps (for waiting at least eta + 1):

    away    mean effective sample size below `ess`, or mean KL(behaviour, policy) above `kl`:  eta is halved
    up      the learner waited, for more than the share `waiting` of its time, while only eta kept work from the actors:
            to the largest eta up to 1.5 eta + 1 at which the data would stay inside the bounds even if their distance grew
            with the square of the age, on trial
    down    it waited for hardly any of its time: eta - 1, on trial

Waiting is a median, so that no single step decides. Of the data means are taken: most steps are near the policy, and the few
that are not do the harm.

A raise that does not take a quarter of that waiting, per second of work, away is undone, and so is a reduction that brings half
of `waiting` back.
What a change does shows only once the tickets under it are trained, so the next `max(from, to) + 1` steps are no evidence of
it. After a change that was undone or forced, no eta as large (after a reduction, no other one) is tried for a while, each time
twice as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, median
from typing import NamedTuple

import msgspec

from ...common.config.sections import AdaptiveConfig
from ..journal.records import EtaEvidence, EtaRecord, EtaState

# Number of these rules: another one whenever `decide_eta` decides otherwise than before. Records tell by which they were made,
# and those of other rules are not made again.
LAW = 1
# a raise pays if the share of time that was held back falls below this part of what it was
PAYS = 0.75
# of the share `waiting`: with less, a smaller eta may do
QUIET = 0.25
# of the share `waiting`: a smaller eta on trial is kept up to this
KEPT = 0.5
MAX_DOUBLINGS = 5


class Summary(NamedTuple):
    """What a window of evidence says."""

    ess: float  # mean
    kl: float  # mean
    held: float  # median share of the time of eta + 1 steps

    @classmethod
    def of(cls, window: list[EtaEvidence], eta: int) -> Summary:
        """That of a window that is not empty.

        Where groups take longer than eta + 1 steps, batches come in bursts of eta + 1: the learner waits long for the first and
        not at all for the others. The median step would say that there is no waiting, so eta + 1 steps count together.
        """
        size = min(eta + 1, len(window))
        bursts = [window[end - size : end] for end in range(len(window), size - 1, -size)]
        shares = [sum(step.held_share * step.step_s for step in burst) / sum(step.step_s for step in burst) for burst in bursts]
        return cls(fmean(each.ess for each in window), fmean(each.kl for each in window), median(shares))


def initial_state(eta: int, version: int = 0) -> EtaState:
    """The state of a run whose learner is at `version` and whose tickets are issued under `eta` from now on."""
    return EtaState(eta=eta, begun=version, version=version, settled=version + eta + 1)


def inside(state: EtaState, rules: AdaptiveConfig) -> EtaState:
    """The state under rules that may have changed since: eta within their bounds."""
    eta = min(max(state.eta, rules.min), rules.max)
    return state if eta == state.eta else initial_state(eta, state.version)


def decide_eta(state: EtaState, evidence: EtaEvidence, rules: AdaptiveConfig) -> tuple[EtaState, str]:
    """The state after the evidence of one more step, and why eta changed; empty if it did not.

    A step that was read already (the learner repeats it) and numbers that are not finite change nothing.
    """
    if evidence.version <= state.version:
        return state, ""
    state = msgspec.structs.replace(state, version=evidence.version)
    if evidence.version <= state.settled or not evidence.is_finite:
        return state, ""
    window = max(rules.window, state.eta + 1)
    state = msgspec.structs.replace(state, window=[*state.window, evidence][-window:])
    if len(state.window) < rules.window:
        return state, ""
    away = _away(Summary.of(state.window[-rules.window :], state.eta), rules)
    if away and state.eta > rules.min:
        return _moved(state, max(rules.min, state.eta // 2), rules, ceiling=state.eta - 1), away
    if len(state.window) < window:
        return state, ""
    seen = Summary.of(state.window, state.eta)
    undone = _undone(state, seen, rules)
    if undone:
        back = state.eta - state.trial
        return _moved(state, back, rules, ceiling=back), undone
    return _tried(msgspec.structs.replace(state, trial=0), seen, rules)


def _away(seen: Summary, rules: AdaptiveConfig) -> str:
    """Why the data are too far from the policy; empty if they are not."""
    if seen.ess < rules.ess:
        return f"effective sample size {seen.ess:.4f}, below {rules.ess:g}"
    if seen.kl > rules.kl:
        return f"KL(behaviour, policy) {seen.kl:.3g} nats, above {rules.kl:g}"
    return ""


def _undone(state: EtaState, seen: Summary, rules: AdaptiveConfig) -> str:
    """Why the trial under way is given up; empty if it is not, or there is none."""
    if state.trial > 0 and _by_rest(seen.held) > PAYS * _by_rest(state.held):
        return f"the raise did not pay: work was held back for {seen.held:.1%} of the time, {state.held:.1%} before it"
    if state.trial < 0 and seen.held > KEPT * rules.waiting:
        return f"the smaller eta costs: work is held back for {seen.held:.1%} of the time, {state.held:.1%} before it"
    return ""


def _by_rest(share: float) -> float:
    """The time that was held back, by the rest, which is work: as a share of all it hardly falls where it is nearly all."""
    return share / (1 - share) if share < 1 else math.inf


def _tried(state: EtaState, seen: Summary, rules: AdaptiveConfig) -> tuple[EtaState, str]:
    """Begin a trial of a larger or smaller eta, if there is reason for one and it does not have to rest."""
    rests = state.version < state.resting
    larger = _largest_inside(state.eta, min(state.ceiling, rules.max) if rests else rules.max, seen, rules)
    if seen.held > rules.waiting and larger > state.eta:
        why = f"work is held back for {seen.held:.1%} of the time, above {rules.waiting:.1%}"
        return _moved(state, larger, rules, trial=larger - state.eta, held=seen.held), why
    if seen.held < QUIET * rules.waiting and state.eta > rules.min and not rests:
        why = f"work is held back for {seen.held:.1%} of the time: a smaller eta may be as fast"
        return _moved(state, state.eta - 1, rules, trial=-1, held=seen.held), why
    return state, ""


def _largest_inside(eta: int, most: int, seen: Summary, rules: AdaptiveConfig) -> int:
    """The largest eta, up to half as large again, that keeps data inside if distance grows with the square of the age."""
    for larger in range(min(eta + eta // 2 + 1, most), eta, -1):
        growth = ((larger + 1) / (eta + 1)) ** 2
        if seen.ess > 0 and math.log(seen.ess) * growth >= math.log(rules.ess) and seen.kl * growth <= rules.kl:
            return larger
    return eta


def _moved(
    state: EtaState, eta: int, rules: AdaptiveConfig, *, trial: int = 0, held: float = 0.0, ceiling: int | None = None
) -> EtaState:
    """The state after a change to `eta`. `ceiling`: the change was forced, or undoes a trial; raises rest beyond this."""
    settled = state.version + max(state.eta, eta) + 1
    moved = msgspec.structs.replace(state, eta=eta, settled=settled, window=[], trial=trial, held=held)
    if ceiling is None:
        return moved
    failed = state.failed + 1
    # a larger eta takes more steps to show what it does, and rests for as many more
    resting = settled + ((rules.window + state.eta + 1) << min(failed, MAX_DOUBLINGS))
    return msgspec.structs.replace(moved, failed=failed, resting=resting, ceiling=ceiling)


class WrongDecision(NamedTuple):
    """A recorded decision that does not follow from what is recorded with and before it."""

    version: int
    recorded: str
    made: str  # from the numbers

    def sentence(self) -> str:
        """All of it."""
        return f"the decision about eta after version {self.version}: recorded {self.recorded}; its numbers say {self.made}"


def check_decisions(records: Iterable[EtaRecord], newest: EtaState | None = None) -> list[WrongDecision]:
    """Make the recorded decisions of a run again, in order of versions; the wrong ones.

    Each must follow from its numbers, and begin in the state that the one before it ended in; the last one ended in `newest`.
    Those of other rules than LAW are left out.
    """
    wrong: list[WrongDecision] = []
    ended: EtaState | None = None
    known = True  # how the one before ended
    for record in records:
        state, version = record.state, record.evidence.version
        if record.law != LAW:
            known = False
            continue
        if known and not _follows(state, ended):
            wrong.append(WrongDecision(version, f"it began in {state}", f"the one before it ended in {ended}"))
        known = True
        ended, why = decide_eta(state, record.evidence, record.rules)
        if (ended.eta, why) != (record.eta, record.why):
            wrong.append(WrongDecision(version, _described(record.eta, record.why), _described(ended.eta, why)))
    if newest is not None and known and not _follows(newest, ended):
        wrong.append(WrongDecision(newest.version, f"the newest state has {newest}", f"the last one ended in {ended}"))
    return wrong


def _described(eta: int, why: str) -> str:
    return f"eta {eta} ({why or 'unchanged'})"


def _follows(state: EtaState, ended: EtaState | None) -> bool:
    """Whether a decision may begin in `state`: where the one before it ended, or where decisions begin anew."""
    return state == ended or ((ended is None or state.begun > ended.begun) and state == initial_state(state.eta, state.begun))
