"""A test of the simulator: its judge must notice each of these bugs when it is planted into the real buffer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec
import pytest
from prolong.buffer.core.dispatch import Dispatch
from prolong.buffer.core.run_state import RunState
from prolong.buffer.journal.group_log import FramePlace, GroupLog
from prolong.buffer.journal.journal import Journal
from prolong.buffer.journal.records import BufferState
from prolong.buffer.serving.output_commit import Frame, OutputCommit
from prolong.buffer.tickets.leases import Lease, Leases
from prolong.buffer.tickets.ledger import Ledger
from prolong.buffer.tickets.look_ahead import LookAhead
from prolong.buffer.tickets.mixture import PromptMixture
from prolong.buffer.tickets.staleness import StalenessContract
from prolong.buffer.tickets.store import Store
from prolong.common.config.choices import DispatchRule
from prolong.common.config.sections import Straggler
from prolong.common.messages import FromBuffer
from prolong.common.types import Batch, TicketKind, TicketState

from tests.simulator.audit import Violation
from tests.simulator.disk import FaultyFiles
from tests.simulator.faults import Kind
from tests.simulator.plan import Plan
from tests.simulator.world import World

ENOUGH = 400  # schedules, of which at least one must show a bug

Patch = pytest.MonkeyPatch


def deadline_off_by_one(patch: Patch) -> None:
    init_well = StalenessContract.__init__

    def init(self: StalenessContract, *, eta: int, maximum: int, **settings: Any) -> None:
        init_well(self, eta=eta + 1, maximum=maximum + 1, **settings)

    patch.setattr(StalenessContract, "__init__", init)


def no_deduplication(patch: Patch) -> None:
    end_well = Leases.end

    def end(self: Leases, ordinal: int) -> Lease:
        lease = end_well(self, ordinal)
        if lease.ticket.kind is TicketKind.train:
            self._by_ordinal[ordinal] = lease
            self._by_actor.setdefault(lease.actor, {})[ordinal] = None
        return lease

    patch.setattr(Leases, "end", end)


def filtered_place_not_given_back(patch: Patch) -> None:
    patch.setattr(StalenessContract, "drop", lambda self, ordinal: None)


def filtered_group_still_counted(patch: Patch) -> None:
    move_well = Ledger.move

    def move(self: Ledger, ordinal: int, to: TicketState) -> object:
        entry = move_well(self, ordinal, to)
        if to is TicketState.filtered:
            self.total -= 1
        return entry

    patch.setattr(Ledger, "move", move)


def selection_in_order_of_completion(patch: Patch) -> None:
    def choose(self: StalenessContract) -> list[int] | None:
        arrived = [ordinal for group in self._stored.values() for ordinal in group]
        return sorted(arrived[-self.batch :]) if len(arrived) >= self.batch else None

    patch.setattr(StalenessContract, "choose", choose)


def lagging_actors_admitted_like_others(patch: Patch) -> None:
    patch.setattr(StalenessContract, "_feasible_with", lambda self, deadline: True)


def admission_beyond_the_last_step(patch: Patch) -> None:
    init_well = StalenessContract.__init__

    def init(self: StalenessContract, *, steps: int, **settings: Any) -> None:
        init_well(self, steps=1_000, **settings)

    patch.setattr(StalenessContract, "__init__", init)


def lost_leases_unnoticed(patch: Patch) -> None:
    def expired(self: Leases, now: float) -> list[Lease]:
        return []

    patch.setattr(Leases, "expired", expired)


def dead_generation_accepted(patch: Patch) -> None:
    patch.setattr(Leases, "clear", lambda self: None)
    refusal_well = Dispatch._refusal

    def refusal(self: Dispatch, actor: Any, ordinal: int, generation: int) -> str:
        reason = refusal_well(self, actor, ordinal, generation)
        return "" if "is over" in reason and self._run.leases.find(ordinal) is not None else reason

    patch.setattr(Dispatch, "_refusal", refusal)


def generation_not_raised(patch: Patch) -> None:
    """A learner that comes without a checkpoint is taken for one that continues."""
    begin_well = Store.begin_generation

    def begin_generation(self: Store, *args: Any) -> None:
        before = self.generation
        begin_well(self, *args)
        self.generation = max(before, 1)

    patch.setattr(Store, "begin_generation", begin_generation)


def batch_served_again_in_another_order(patch: Patch) -> None:
    batch_well = Journal.batch

    def batch(self: Journal, version: int) -> Batch | None:
        recorded = batch_well(self, version)
        return recorded and msgspec.structs.replace(recorded, groups=recorded.groups[::-1])

    patch.setattr(Journal, "batch", batch)


def prompts_never_reissued_to_their_place(patch: Patch) -> None:
    fail_well = Store.fail_ticket

    def fail_ticket(self: Store, ordinal: int) -> None:
        fail_well(self, ordinal)
        self.ledger.counts[TicketState.failed] -= 1
        self.ledger.counts[TicketState.batched] += 1  # the place stays taken

    patch.setattr(Store, "fail_ticket", fail_ticket)


def _state(patch: Patch, change: Callable[[BufferState], BufferState]) -> None:
    state_well = RunState.state
    patch.setattr(RunState, "state", lambda self, **more: change(state_well(self, **more)))


def reset_request_not_recorded(patch: Patch) -> None:
    _state(patch, lambda state: msgspec.structs.replace(state, reset_requested=False))


def reset_request_kept_open_when_it_went_out(patch: Patch) -> None:
    log_well = Journal.log_batch

    def log_batch(self: Journal, batch: Batch) -> None:
        log_well(self, batch)
        if batch.reset_requested:
            again.append(True)

    again: list[bool] = []
    take_well = Store.try_take

    def try_take(self: Store) -> Batch | None:
        if again and not self.reset_requested:
            self.reset_requested = again.pop()
        return take_well(self)

    patch.setattr(Journal, "log_batch", log_batch)
    patch.setattr(Store, "try_take", try_take)


def work_under_way_forgotten_at_an_early_end(patch: Patch) -> None:
    patch.setattr(Store, "mark_untrained_stale", lambda self: None)


def leases_kept_at_an_early_end(patch: Patch) -> None:
    patch.setattr(Leases, "end_training_leases", lambda self: None)


def stage_that_goes_back(patch: Patch) -> None:
    patch.setattr(Store, "enter_later", lambda self, stage: self.enter(stage) if stage < len(self.stages) else None)


def change_of_stage_missed(patch: Patch) -> None:
    patch.setattr(Store, "enter_later", lambda self, stage: None)


def sources_of_weight_0_drawn(patch: Patch) -> None:
    weigh_well = PromptMixture.weigh
    patch.setattr(PromptMixture, "weigh", lambda self, weights: weigh_well(self, [weight or 0.5 for weight in weights]))


# --- of the journal -------------------------------------------------------------------------------


def said_before_it_is_durable(patch: Patch) -> None:
    flush_well = OutputCommit.flush

    def flush(self: OutputCommit, now: float) -> list[Frame]:
        leaving, self._held = self._held, []
        return self._encode(leaving) + flush_well(self, now)

    patch.setattr(OutputCommit, "flush", flush)


def said_though_the_disk_is_full(patch: Patch) -> None:
    def may_leave(self: object, message: FromBuffer) -> bool:
        return True

    patch.setattr("prolong.buffer.core.core.BufferCore.may_leave", may_leave)


def restored_leases_forgotten(patch: Patch) -> None:
    patch.setattr(Leases, "restore", lambda self, records, now, rejoin_grace_s: None)


def orphans_never_given_up(patch: Patch) -> None:
    restore_well = Leases.restore

    def restore(self: Leases, *args: Any) -> None:
        restore_well(self, *args)
        self._rejoining.clear()

    patch.setattr(Leases, "restore", restore)
    lost_leases_unnoticed(patch)


def payload_dropped_at_batching(patch: Patch) -> None:
    log_well = Journal.log_batch

    def log_batch(self: Journal, batch: Batch) -> None:
        log_well(self, batch)
        for group in batch.groups:
            self.drop(b"g" + group.ordinal.to_bytes(8, "big"))

    patch.setattr(Journal, "log_batch", log_batch)


def moves_not_journaled(patch: Patch) -> None:
    patch.setattr(Journal, "add_moves", lambda self, moves: None)


def retries_forgotten_at_restart(patch: Patch) -> None:
    patch.setattr(Journal, "retries", lambda self: {})


def prompts_issued_ahead_forgotten_at_restart(patch: Patch) -> None:
    _state(patch, lambda state: msgspec.structs.replace(state, skips=[]))


def prompts_that_wait_are_drawn_by_the_weights_of_a_stage_that_is_over(patch: Patch) -> None:
    patch.setattr(LookAhead, "weigh", lambda self, weights: self._source.weigh(weights))


def ordinals_begin_again_at_restart(patch: Patch) -> None:
    _state(patch, lambda state: msgspec.structs.replace(state, next_ordinal=max(state.next_ordinal - 1, 0)))


def batches_forgotten_with_the_newest_checkpoint(patch: Patch) -> None:
    before_well = Journal.forget_before
    patch.setattr(Journal, "forget_before", lambda self, version: before_well(self, version + 1))


def groups_of_forgotten_batches_left_behind(patch: Patch) -> None:
    def drop_batches(self: Journal, versions: list[int]) -> None:
        for version in versions:
            self.drop(b"b" + version.to_bytes(8, "big"))

    patch.setattr(Journal, "_drop_batches", drop_batches)


def sweeps_not_recorded(patch: Patch) -> None:
    patch.setattr("prolong.buffer.journal.journal.Journal.sweeps", lambda self: [])


def log_not_synced(patch: Patch) -> None:
    patch.setattr(FaultyFiles, "sync", lambda self, number: None)


def ends_of_segments_forgotten_at_restart(patch: Patch) -> None:
    restore_well = GroupLog.restore

    def restore(self: GroupLog, places: Iterable[FramePlace]) -> None:
        restore_well(self, places)
        for segment in self._segments.values():
            segment.end = 0

    patch.setattr(GroupLog, "restore", restore)


def live_groups_not_counted(patch: Patch) -> None:
    settle_well = GroupLog.settle

    def settle(self: GroupLog, added: Collection[FramePlace], dropped: Collection[FramePlace]) -> None:
        settle_well(self, added, dropped)
        for place in dropped:
            if place.segment in self._segments:
                self._segments[place.segment].end = 0

    patch.setattr(GroupLog, "settle", settle)


BUGS: list[tuple[Callable[[Patch], None], str]] = [
    (deadline_off_by_one, "was issued under eta|admission allows|is in batch .* eta|due in the next"),
    (no_deduplication, r"must be refused: ticket \d+ is settled|are settled, and leased"),
    (filtered_place_not_given_back, "stuck|differs"),
    (filtered_group_still_counted, "out of balance"),
    (selection_in_order_of_completion, "past their deadline|due in the next"),
    (lagging_actors_admitted_like_others, "due in the next"),
    (admission_beyond_the_last_step, "`wait` dropped|due in the next"),
    (lost_leases_unnoticed, "stuck"),
    (dead_generation_accepted, r"must be refused: generation \d+ is over|differs"),
    (generation_not_raised, "was forgotten, checkpoints|was served again|was lost"),
    (batch_served_again_in_another_order, "served again, but differs"),
    (prompts_never_reissued_to_their_place, "stuck|out of balance"),
    (reset_request_not_recorded, "asks for a reset: False, due|differs"),
    (reset_request_kept_open_when_it_went_out, "asks for a reset: True, due: None"),
    (work_under_way_forgotten_at_an_early_end, "the run ended with|cannot become|learner's version"),
    (leases_kept_at_an_early_end, "must be refused: the run has ended|differs"),
    (stage_that_goes_back, "the learner is in"),
    (change_of_stage_missed, "the learner is in"),
    (sources_of_weight_0_drawn, "leaves out the source of"),
    (said_before_it_is_durable, "before it was durable"),
    (said_though_the_disk_is_full, "before it was durable"),
    (restored_leases_forgotten, "a restarted buffer differs.*leases"),
    (orphans_never_given_up, "stuck"),
    (payload_dropped_at_batching, "without its groups|has lost the group|were dropped"),
    (moves_not_journaled, "the journal has moves up to 0, the ledger made"),
    (retries_forgotten_at_restart, "a restarted buffer differs.*retries"),
    (prompts_issued_ahead_forgotten_at_restart, "a restarted buffer differs.*skips"),
    (prompts_that_wait_are_drawn_by_the_weights_of_a_stage_that_is_over, "leaves out the source of"),
    (ordinals_begin_again_at_restart, "a restarted buffer differs.*next_ordinal|before it was durable"),
    (batches_forgotten_with_the_newest_checkpoint, "was forgotten, checkpoints"),
    (groups_of_forgotten_batches_left_behind, "the journal holds groups"),
    (sweeps_not_recorded, "a restarted buffer differs.*sweeps"),
    (log_not_synced, "not those that were written"),
    (ends_of_segments_forgotten_at_restart, "not those that were written|the log is broken"),
    (live_groups_not_counted, "not those that were written|the log is broken"),
]


def _restarts(plan: Plan) -> bool:
    return any((fault.kind, fault.victim) == (Kind.kill, "buffer") and fault.event < 300 for fault in plan.faults)


def _chooses(plan: Plan) -> bool:
    return plan.dispatch is DispatchRule.forecast and plan.slower > 1 and plan.actors > 1


NEEDS: dict[Callable[[Patch], None], Callable[[Plan], bool]] = {  # schedules that can show it, where few can
    selection_in_order_of_completion: lambda plan: plan.straggler is Straggler.wait and plan.eta > 1,
    lost_leases_unnoticed: lambda plan: plan.hang > 0,
    reset_request_not_recorded: lambda plan: _restarts(plan) and plan.resets > 0,
    said_though_the_disk_is_full: lambda plan: any(fault.kind is Kind.full for fault in plan.faults),
    orphans_never_given_up: _restarts,
    retries_forgotten_at_restart: _restarts,
    prompts_issued_ahead_forgotten_at_restart: lambda plan: _restarts(plan) and _chooses(plan),
    prompts_that_wait_are_drawn_by_the_weights_of_a_stage_that_is_over: _chooses,
    batches_forgotten_with_the_newest_checkpoint: lambda plan: plan.checkpoint < plan.last,
    groups_of_forgotten_batches_left_behind: _restarts,
    sweeps_not_recorded: lambda plan: _restarts(plan) and plan.heldout > 0,
    log_not_synced: _restarts,
    ends_of_segments_forgotten_at_restart: _restarts,
}


@pytest.mark.parametrize(("plant", "symptom"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_a_planted_bug_is_caught(plant: Callable[[Patch], None], symptom: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation, match=symptom):
        run_all(shows=NEEDS.get(plant, lambda plan: True))


def run_all(shows: Callable[[Plan], bool]) -> None:
    for plan in filter(shows, map(Plan.draw, range(ENOUGH))):
        World(plan).run()
