"""The speed of a run by eta where time is not measured, and an adaptive eta in such a run.

Published speeds of a run over its synchronous self, a 67B model on 32 + 8 devices: 1.43, 1.76 and 2.12 at eta 1, 2 and 4.
Assumed: what eta holds back falls by the same factor with each version. LIMIT (1 - HELD FALL^eta) is within 2 % of the three.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..buffer.journal.records import EtaEvidence
from ..buffer.tickets.adaptive import decide_eta, initial_state
from ..common.config.sections import AdaptiveConfig

LIMIT, HELD, FALL = 2.43, 0.5885, 0.7


def held_back(eta: int) -> float:
    """The share of a step's time that a larger bound would save."""
    return HELD * FALL**eta


def speed(eta: int) -> float:
    """Steps in the time of one synchronous step."""
    return LIMIT * (1.0 - held_back(eta))


class AdaptiveEta:
    """The buffer's decisions about eta, in a run in lockstep: ESS and KL are those of the steps, waiting is assumed."""

    def __init__(self, rules: AdaptiveConfig, begin: int) -> None:
        self.rules = rules
        self.state = initial_state(begin)
        # the bound in force at each version, and why it changed
        self.etas: list[int] = []
        self.reasons: list[str] = []

    def __call__(self, version: int, metrics: Sequence[dict[str, float]]) -> int:
        """The bound from `version` on, given the metrics of the steps before it."""
        if metrics:
            held = held_back(self.state.eta)
            evidence = EtaEvidence(
                version=version,
                ess=metrics[-1]["policy/ess"],
                kl=metrics[-1]["policy/kl_behaviour_k3"],
                wait_s=held,
                step_s=1.0,
                held_s=held,
            )
            self.state, why = decide_eta(self.state, evidence, self.rules)
            if why:
                self.reasons.append(f"{version}: {self.state.eta}, {why}")
        self.etas.append(self.state.eta)
        return self.state.eta
