"""The eta of tickets that are issued now, and the time for which it holds work back.

StepDone -> hear -> tickets/adaptive.py -> EtaRecord in the journal, eta in the contract
tick     -> HeldTime                       seconds in which the learner waited and a larger eta would have given it more
"""

from __future__ import annotations

from ...common.config.sections import AdaptiveConfig
from ...common.types import StepEvidence
from ..journal.records import EtaEvidence, EtaRecord, EtaState
from ..tickets.adaptive import LAW, decide_eta, initial_state, inside


class HeldTime:
    """Seconds since the last `take` in which work was held back. Time comes from outside and goes forward."""

    def __init__(self) -> None:
        self._seconds, self._since_s = 0.0, 0.0
        self._holds = False

    def note(self, now: float, *, holds: bool) -> None:
        """Work is held back, or is not, from now on."""
        self._until(now)
        self._holds = holds

    def take(self, now: float) -> float:
        """The seconds since the last call."""
        self._until(now)
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _until(self, now: float) -> None:
        if self._holds:
            self._seconds += max(0.0, now - self._since_s)
        self._since_s = now


class EtaControl:
    """Decides about eta with the evidence of every step, each step once."""

    def __init__(self, rules: AdaptiveConfig, eta: int) -> None:
        """`eta`: that a run, or a history without a record of it, begins with."""
        self.rules, self._first = rules, eta
        self.state = initial_state(eta)
        # of the last change
        self.why = ""

    def hear(self, version: int, said: StepEvidence, held_s: float) -> EtaRecord | None:
        """Decide with what the learner said of the step that made `version`; None if that step was read before.

        `held_s`: seconds for which work was held back while the learner waited for that step's batch.
        """
        if version <= self.state.version:
            return None
        evidence = EtaEvidence(version=version, ess=said.ess, kl=said.kl, wait_s=said.wait_s, step_s=said.step_s, held_s=held_s)
        before = self.state
        self.state, why = decide_eta(before, evidence, self.rules)
        self.why = why or self.why
        return EtaRecord(evidence=evidence, rules=self.rules, law=LAW, state=before, eta=self.state.eta, why=why)

    def restore(self, state: EtaState | None, version: int) -> None:
        """Go on from a recorded state; None: begin anew at `version`."""
        self.state = initial_state(self._first, version) if state is None else inside(state, self.rules)
