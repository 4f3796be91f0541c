"""The test of the test: each of these faults, planted into the real core, must be noticed by the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prolong.buffer import timeline
from prolong.buffer.dispatch import Dispatch
from prolong.buffer.journal import BufferState, MemoryJournal
from prolong.buffer.leases import Lease, Leases
from prolong.buffer.prompts import PromptMixture
from prolong.buffer.staleness import StalenessContract
from prolong.buffer.store import Store
from prolong.common.errors import LedgerError
from prolong.common.types import Batch, TicketState

from .judge import Violation
from .plan import Plan
from .simulator import World

ENOUGH = 400  # schedules


def deadline_off_by_one(patch: pytest.MonkeyPatch) -> None:
    init_well = StalenessContract.__init__

    def init(self: StalenessContract, *, eta: int, **settings: Any) -> None:
        init_well(self, eta=eta + 1, **settings)

    patch.setattr(StalenessContract, "__init__", init)


def no_deduplication(patch: pytest.MonkeyPatch) -> None:
    end_well = Leases.end

    def end(self: Leases, ordinal: int) -> Lease:
        lease = end_well(self, ordinal)
        self._by_ordinal[ordinal] = lease
        self._by_actor.setdefault(lease.actor, {})[ordinal] = None
        return lease

    patch.setattr(Leases, "end", end)


def filtered_place_not_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StalenessContract, "drop", lambda self, ordinal: None)


def filtered_group_still_counted(patch: pytest.MonkeyPatch) -> None:
    from prolong.buffer.ledger import Ledger

    move_well = Ledger.move

    def move(self: Ledger, ordinal: int, to: TicketState) -> object:
        entry = move_well(self, ordinal, to)
        if to is TicketState.filtered:
            self.total -= 1
        return entry

    patch.setattr(Ledger, "move", move)


def selection_in_order_of_completion(patch: pytest.MonkeyPatch) -> None:
    def choose(self: StalenessContract) -> list[int] | None:
        arrived = [ordinal for group in self._stored.values() for ordinal in group]
        return sorted(arrived[-self.batch :]) if len(arrived) >= self.batch else None

    patch.setattr(StalenessContract, "choose", choose)


def lagging_actors_admitted_like_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StalenessContract, "_feasible_with", lambda self, deadline: True)


def admission_beyond_the_last_step(patch: pytest.MonkeyPatch) -> None:
    init_well = StalenessContract.__init__

    def init(self: StalenessContract, **settings: Any) -> None:
        init_well(self, **(settings | {"steps": 1_000}))

    patch.setattr(StalenessContract, "__init__", init)


def lost_leases_unnoticed(patch: pytest.MonkeyPatch) -> None:
    def expired(self: Leases, now: float) -> list[Lease]:
        return []

    patch.setattr(Leases, "expired", expired)


def dead_generation_accepted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "clear", lambda self: None)
    unwanted_well = Dispatch._unwanted

    def unwanted(self: Dispatch, actor: Any, message: Any) -> str:
        reason = unwanted_well(self, actor, message)
        return "" if "is over" in reason else reason

    patch.setattr(Dispatch, "_unwanted", unwanted)


def batch_served_again_in_another_order(patch: pytest.MonkeyPatch) -> None:
    batch_well = MemoryJournal.batch

    def batch(self: MemoryJournal, version: int) -> Batch | None:
        recorded = batch_well(self, version)
        return recorded and msgspec.structs.replace(recorded, groups=recorded.groups[::-1])

    patch.setattr(MemoryJournal, "batch", batch)


def prompts_never_reissued_to_their_place(patch: pytest.MonkeyPatch) -> None:
    lose_well = Store.lose

    def lose(self: Store, ordinal: int) -> None:
        lose_well(self, ordinal)
        self.ledger.counts[TicketState.failed] -= 1
        self.ledger.counts[TicketState.batched] += 1  # the place stays taken

    patch.setattr(Store, "lose", lose)


def reset_request_not_recorded(patch: pytest.MonkeyPatch) -> None:
    record_well = timeline.record

    def record(store: Store, *args: Any, **kwargs: Any) -> BufferState:
        return msgspec.structs.replace(record_well(store, *args, **kwargs), reset_requested=False)

    patch.setattr(timeline, "record", record)


def reset_request_recorded_as_open_when_it_went_out(patch: pytest.MonkeyPatch) -> None:
    log_well = MemoryJournal.log_batch

    def log_batch(self: MemoryJournal, batch: Batch, state: BufferState) -> None:
        log_well(self, batch, msgspec.structs.replace(state, reset_requested=batch.reset_requested))

    patch.setattr(MemoryJournal, "log_batch", log_batch)


def work_under_way_forgotten_at_an_early_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(timeline, "retire", lambda store: None)


def leases_kept_at_an_early_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatch, "withdraw", lambda self: None)


def stage_that_goes_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "enter_later", lambda self, stage: self.enter(stage) if stage < len(self.stages) else None)


def change_of_stage_missed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "enter_later", lambda self, stage: None)


def sources_of_weight_0_drawn(patch: pytest.MonkeyPatch) -> None:
    weigh_well = PromptMixture.weigh
    patch.setattr(PromptMixture, "weigh", lambda self, weights: weigh_well(self, [weight or 0.5 for weight in weights]))


@pytest.mark.parametrize(
    ("plant", "symptom"),
    [
        (deadline_off_by_one, "admission allows|is in batch .* eta|due in the next"),
        (no_deduplication, "from stored to stored|cannot become stored"),
        (filtered_place_not_given_back, "stuck"),
        (filtered_group_still_counted, "out of balance"),
        (selection_in_order_of_completion, "past their deadline|due in the next"),
        (lagging_actors_admitted_like_others, "due in the next"),
        (admission_beyond_the_last_step, "`wait` dropped|due in the next"),
        (lost_leases_unnoticed, "stuck"),
        (dead_generation_accepted, r"^\d+$|cannot become"),  # a ticket that the contract does not know
        (batch_served_again_in_another_order, "served again, but differs"),
        (prompts_never_reissued_to_their_place, "stuck"),
        (reset_request_not_recorded, "asks for a reset: False, due"),
        (reset_request_recorded_as_open_when_it_went_out, "asks for a reset: True, due: None"),
        (work_under_way_forgotten_at_an_early_end, "the run ended with|cannot become|learner's version"),
        (leases_kept_at_an_early_end, r"^\d+$|cannot become"),  # a ticket that the contract does not know
        (stage_that_goes_back, "the learner is in"),
        (change_of_stage_missed, "the learner is in"),
        (sources_of_weight_0_drawn, "leaves out the source of"),
    ],
)
def test_a_planted_bug_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], symptom: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((Violation, LedgerError, KeyError), match=symptom):
        run_all()


def run_all() -> None:
    for seed in range(ENOUGH):
        World(Plan.draw(seed)).run()
