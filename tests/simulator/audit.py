"""An audit of the journal from outside: it keeps its own record of every commit, and compares a restarted buffer with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from prolong.buffer.core.core import BufferCore
from prolong.buffer.journal import records as r
from prolong.buffer.journal.journal import Journal
from prolong.buffer.tickets.adaptive import check_decisions
from prolong.common.config.sections import Straggler
from prolong.common.errors import JournalError
from prolong.common.types import TicketState

from .plan import Plan

STATES = list(TicketState)
ISSUED, LEASED, STORED, BATCHED, STALE, FAILED = (
    STATES.index(s)
    for s in (
        TicketState.issued,
        TicketState.leased,
        TicketState.stored,
        TicketState.batched,
        TicketState.stale,
        TicketState.failed,
    )
)


class Violation(AssertionError):
    """A promise was broken."""


class Stuck(Violation):
    """Nothing more will happen, or the run takes too long."""


class Audit:
    """Checks the promises that the journal must keep after every commit."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.counts = [0] * len(STATES)
        self.num_moves = self.num_issued = self.num_commits = 0
        self.issued: set[int] = set()  # training tickets
        self.stored: set[int] = set()
        self.ever_stored: set[int] = set()
        self.ever_handed_over: set[int] = set()  # tickets that were issued again
        self.groups: set[int] = set()  # tickets whose group the journal holds
        self.batches: dict[int, list[int]] = {}  # version -> ordinals, of the batches that the journal holds
        self.logged: set[tuple[int, int]] = set()  # (generation, version) of every batch
        self.used: set[int] = set()  # ordinals in any batch
        self.generation = self.next_ordinal = 0
        self.decided: dict[int, bytes] = {}  # version -> decision about eta
        self.num_changes = 0  # of eta
        # since the last commit a generation or the run ended: untrained tickets may become stale
        self.disowned = False
        # since the last commit an actor was found to have wrong weights: groups that it stored may be given up
        self.distrusts = False
        self.given_up: set[int] = set()  # these groups
        self.resets: list[tuple[int, bool]] = []  # (version, asks for a reset) of the last commit's batches
        self._pending: list[r.Move] = []
        self._checkpoint_moves: dict[int, int] = {}  # version -> moves that the state of its checkpoint covers
        self._core: BufferCore | None = None  # the one that commits
        self._lasting: dict[str, Any] | None = None  # the core's state at the last commit

    # --- commits ----------------------------------------------------------------------------------

    def about_to_commit(self, core: BufferCore) -> None:
        self._core = core

    def committed(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> None:
        """Check a commit that reached the disk."""
        self.num_commits += 1
        numbered = {(key[:1], r.number_of(key)): value for key, value in put.items() if len(key) > 1}
        state = r.unpack_record(put[r.NEWEST], r.BufferState, "state")
        for (kind, version), value in numbered.items():
            if kind == r.STATE:
                self._checkpoint_moves[version] = r.unpack_record(value, r.BufferState, "state").num_moves
        covered = self._checkpoint_moves.get(state.checkpoints[0], 0) if state.checkpoints else 0
        batched = self._moves({number: value for (kind, number), value in numbered.items() if kind == r.MOVES}, covered)
        self.groups |= {number for kind, number in numbered if kind == r.GROUP}
        records = {
            n: r.unpack_record(value, r.BatchRecord, "batch") for (kind, n), value in numbered.items() if kind == r.BATCH
        }
        self._batches(records, batched)
        self._decisions({n: value for (kind, n), value in numbered.items() if kind == r.ETA}, drop)
        self._drops(drop, state)
        if [state.ledger[s.value] for s in STATES] != self.counts or state.num_moves != self.num_moves:
            raise Violation(f"the journal's moves make {self.counts}, its state says {state.ledger}: out of balance")
        if not self.stored <= self.groups:
            raise Violation(f"stored, but without a group in the journal: {self.stored - self.groups}")
        if state.generation < self.generation or state.next_ordinal < self.next_ordinal:
            raise Violation(f"generation {self.generation} or ordinal {self.next_ordinal} went back: {state}")
        self.generation, self.next_ordinal = state.generation, state.next_ordinal
        self.disowned = self.distrusts = False
        assert self._core is not None
        self._lasting = picture(self._core)

    def moved(self, moves: list[r.Move]) -> None:
        """Note moves of the ledger, which last with the next commit."""
        self._pending += moves

    def _moves(self, written: dict[int, bytes], needed_from: int) -> set[int]:
        """Count the moves; returns the ordinals that were batched.

        Every move must be written, except those that the oldest checkpoint covers.
        """
        batched: set[int] = set()
        last, self.num_moves = self.num_moves, self.num_moves + len(self._pending)
        for move in self._pending:
            self._move(move, batched)
        expected = last
        for number in sorted(written):
            moves = r.unpack_record(written[number], list[r.Move], "moves")
            if moves != self._pending[number - last : number - last + len(moves)] or not moves:
                raise Violation(f"the journal has other moves from {number} on than the ledger made")
            if not expected <= number <= max(expected, needed_from):
                raise Violation(f"moves from {number} on, expected {expected}")
            expected = number + len(moves)
        if expected < self.num_moves and needed_from < self.num_moves:
            raise Violation(f"the journal has moves up to {expected}, the ledger made {self.num_moves}")
        if min(self.counts) < 0:
            raise Violation(f"the ledger's moves make {self.counts}: out of balance")
        self._pending.clear()
        return batched

    def _move(self, move: r.Move, batched: set[int]) -> None:
        self.counts[move.to_state] += move.count
        if move.from_state < 0:
            self.num_issued += move.count
            if move.ordinal in self.issued:
                raise Violation(f"ticket {move.ordinal} was issued twice")
            if move.ordinal < 0:
                raise Violation(f"tickets were adopted: {move}")
            self.issued.add(move.ordinal)
        else:
            self.counts[move.from_state] -= move.count
        if move.ordinal < 0:
            return
        if move.from_state == LEASED and move.to_state == ISSUED:
            self.ever_handed_over.add(move.ordinal)
        if move.from_state == STORED:
            self.stored.remove(move.ordinal)
            if move.to_state == BATCHED:
                batched.add(move.ordinal)
            elif move.to_state == FAILED and self.distrusts:
                self.given_up.add(move.ordinal)
            elif move.to_state != STALE or (self.plan.straggler is Straggler.wait and not self.disowned):
                raise Violation(f"the stored group {move.ordinal} was lost: it is {STATES[move.to_state]}")
        if move.to_state == STORED:
            self.stored.add(move.ordinal)
            self.ever_stored.add(move.ordinal)

    def _batches(self, records: dict[int, r.BatchRecord], batched: set[int]) -> None:
        inside = [ordinal for record in records.values() for ordinal in record.ordinals]
        if self.used & set(inside) or len(set(inside)) != len(inside):
            raise Violation(f"batched twice: {self.used & set(inside)} of {inside}")
        if batched != set(inside) and not (self.disowned and batched > set(inside)):
            raise Violation(f"{sorted(batched)} became batched, the recorded batches hold {inside}")
        if not self.groups >= set(inside):
            raise Violation(f"a batch without its groups: {set(inside) - self.groups}")
        self.used |= batched
        for version, record in sorted(records.items()):
            self.batches[version] = record.ordinals
            self.logged.add((record.generation, version))
        self.resets = [(version, record.reset_requested) for version, record in sorted(records.items())]

    def _decisions(self, written: dict[int, bytes], drop: Collection[bytes]) -> None:
        """Check decisions about eta: one for each version of a history, and no second one."""
        for key in drop:
            if key[:1] == r.ETA:
                self.decided.pop(r.number_of(key), None)
        for version, value in written.items():
            if self.decided.setdefault(version, value) != value:
                raise Violation(f"eta was decided a second time after version {version}")
            self.num_changes += r.unpack_record(value, r.EtaRecord, "eta").why != ""

    def _drops(self, drop: Collection[bytes], state: r.BufferState) -> None:
        needed_from = state.checkpoints[0] if state.checkpoints else 0
        for key in drop:
            if key[:1] == r.BATCH:
                if r.number_of(key) >= needed_from and not self.disowned:
                    raise Violation(f"batch {r.number_of(key)} was forgotten, checkpoints {state.checkpoints} need it")
                self.batches.pop(r.number_of(key), None)
        dropped = {r.number_of(key) for key in drop if key[:1] == r.GROUP}
        if not dropped:
            return
        self.groups -= dropped
        for version, ordinals in self.batches.items():
            if not dropped.isdisjoint(ordinals):
                raise Violation(f"groups of the recorded batch {version} were dropped: {dropped & set(ordinals)}")

    # --- restarts ---------------------------------------------------------------------------------

    def started(self, core: BufferCore, journal: Journal) -> None:
        """Check a buffer that started: its state must be that of the last one at its last commit."""
        self.disowned = False
        self._pending.clear()
        if self._lasting is None:
            return
        found = picture(core)
        differing = {name: (was, found[name]) for name, was in self._lasting.items() if was != found[name]}
        if differing:
            raise Violation(f"a restarted buffer differs (was, is): {differing}")
        self.examine(journal)

    def examine(self, journal: Journal) -> None:
        """Check the whole journal: the moves add up, and it holds all that it must and nothing more."""
        states, (first, moves) = journal.states(), journal.moves()
        base = journal.load_state(states[0]) if states else None
        newest = journal.load_state()
        assert newest is not None
        if base is not None or first == 0:
            counts = [0 if base is None else base.ledger[s.value] for s in STATES]
            for move in moves[0 if base is None else base.num_moves - first :]:
                counts[move.to_state] += move.count
                if move.from_state >= 0:
                    counts[move.from_state] -= move.count
            if counts != [newest.ledger[s.value] for s in STATES]:
                raise Violation(f"state {states[:1]} and the moves since make {counts}, the newest state says {newest.ledger}")
        wrong = check_decisions(journal.eta_records(), newest.eta)
        if wrong:
            raise Violation(wrong[0].sentence())
        kept = self.stored.union(*self.batches.values())
        if set(journal.groups()) != kept or set(journal.versions()) != set(self.batches):
            raise Violation(f"the journal holds groups {journal.groups()}, expected {sorted(kept)}")
        for version, ordinals in self.batches.items():
            if journal.batch_record(version).ordinals != ordinals:
                raise Violation(f"the recorded batch {version} changed")
        self.examine_log(journal)

    def examine_log(self, journal: Journal) -> None:
        """Check that every group is where the index says, and that it is what was written there."""
        defects = journal.defects()
        try:
            wrong = [ordinal for ordinal in journal.groups() if journal.group(ordinal).ordinal != ordinal]
        except JournalError as error:
            raise Violation(f"a group is lost: {error}") from error
        if defects or wrong:
            raise Violation(f"the log is broken: {defects}, groups of other tickets under {wrong}")


def picture(core: BufferCore) -> dict[str, Any]:
    """All state of a core that must outlive it."""
    store, validation, leases = core.run.store, core.run.validation, core.run.leases
    return {
        "counts": dict(store.ledger.counts),
        "entries": [(entry.ticket.ordinal, entry.attempt, entry.state) for entry in store.ledger.entries()],
        "groups": {e.ticket.ordinal: e.group.rollouts[0].spans for e in store.ledger.entries() if e.group is not None},
        "deadlines": store.contract.deadlines,
        "leases": {lease.ticket.ordinal: (lease.actor, lease.ticket.started) for lease in leases.all()},
        "handed over": {waiting.ticket.ordinal: waiting.ticket for waiting in core.run.handovers.all()},
        "retries": [(prompt.uid, attempt) for prompt, attempt in store.retries],
        "skips": store.look_ahead.skips,
        "where": (store.generation, store.version, store.head, store.stage, store.reset_requested, store.filter.dropped),
        "cursor": store.look_ahead.cursor,
        "next_ordinal": core.run.next_ordinal,
        "epoch": core.run.membership.epoch,
        "checkpoints": list(core.run.checkpoints),
        "eta": (store.contract.eta, None if core.run.eta is None else core.run.eta.state),
        "curriculum": None if core.run.curriculum is None else core.run.curriculum.state,
        "sweeps": validation.records(),
        "scores": (list(validation.scores), validation.reported),
    }
