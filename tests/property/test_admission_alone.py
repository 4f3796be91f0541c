"""Admission alone bounds the work under way, not the age of a group (as in AReaL; SkyRL documents the same).

One pipeline runs twice: its groups, of very unequal length, are taken in the order in which they end, and by feasibility.
"""

from __future__ import annotations

import heapq
import random

import pytest
from prolong.buffer.tickets.staleness import StalenessContract
from prolong.common.config.sections import Preference, Straggler

BATCH, STEPS, ACTORS = 8, 400, 64


class CompletionOrder(StalenessContract):
    """Admits as AReaL does, and takes the first B groups that ended."""

    def choose(self) -> list[int] | None:
        return self.ended[:BATCH] if len(self.ended) >= BATCH else None

    def store(self, ordinal: int, version: int) -> None:
        super().store(ordinal, version)
        self.ended.append(ordinal)

    def take(self, chosen: list[int]) -> list[int]:
        del self.ended[: len(chosen)]
        for ordinal in chosen:
            self._forget_stored(ordinal)
        self.head += 1
        return []

    def __init__(self, *, eta: int, straggler: Straggler) -> None:
        super().__init__(eta=eta, batch=BATCH, steps=10**9, straggler=straggler, preference=Preference.earliest_deadline)
        self.ended: list[int] = []

    def admits(self, version: int, learner_version: int, untrained: int) -> bool:
        return untrained < (self.eta + 1) * BATCH


def largest_lag(contract: StalenessContract, seed: int) -> tuple[int, float]:
    """(largest staleness of a trained group, virtual seconds) of STEPS steps; one group in twenty takes forty times as long."""
    rng, now, version = random.Random(seed), 0.0, 0
    issued_at: dict[int, int] = {}  # ordinal -> version
    running: list[tuple[float, int]] = []
    num_issued = untrained = worst = 0
    while version < STEPS:
        while len(running) < ACTORS and contract.admits(version, version, untrained):
            contract.issue(num_issued, version)
            issued_at[num_issued] = version
            heapq.heappush(running, (now + rng.expovariate(1.0) * (40 if rng.random() < 0.05 else 1), num_issued))
            num_issued, untrained = num_issued + 1, untrained + 1
        chosen = contract.choose()
        if chosen is None:
            now, ordinal = heapq.heappop(running)
            contract.store(ordinal, issued_at[ordinal])
            continue
        contract.take(chosen)
        worst = max(worst, *(version - issued_at[ordinal] for ordinal in chosen))
        version, untrained, now = version + 1, untrained - BATCH, now + 0.2
    return worst, now


@pytest.mark.parametrize("eta", [4, 8])
def test_admission_alone_breaks_the_bound_and_feasibility_selection_keeps_it(eta: int) -> None:
    for seed in range(3):
        alone, _ = largest_lag(CompletionOrder(eta=eta, straggler=Straggler.evict), seed)
        assert alone > eta, f"seed {seed}: this pipeline shows nothing"
        for preference in Preference:
            ours = StalenessContract(eta=eta, batch=BATCH, steps=10**9, straggler=Straggler.wait, preference=preference)
            assert largest_lag(ours, seed)[0] <= eta
