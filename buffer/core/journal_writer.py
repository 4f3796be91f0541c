"""Between the live state and the journal: what changed goes out with every commit, and a restarted buffer begins with it.

`collect` adds what happened since the last call to the journal's pending changes, `commit` makes them durable.
Nothing that follows from a change may be said before.
"""

from __future__ import annotations

from concurrent.futures import Future

from ...common.errors import DataError
from ...common.types import TicketKind, TicketState
from ..journal import records as r
from ..journal.journal import Journal
from ..tickets.ledger import CODES, Entry
from ..tickets.store import Store
from .dispatch import Dispatch
from .membership import Membership
from .validation import Validation

_STORED, _BATCHED = CODES[TicketState.stored], CODES[TicketState.batched]


class JournalWriter:
    """The only one who writes to the journal."""

    def __init__(
        self, journal: Journal, store: Store, validation: Validation, membership: Membership, dispatch: Dispatch
    ) -> None:
        self.journal = journal
        self.checkpoints: list[int] = []  # versions that the learner retains, ascending
        self._store, self._validation, self._membership, self._dispatch = store, validation, membership, dispatch
        self.durable_generation = self._written_generation = 0

    # --- out ----------------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Tell the journal what happened."""
        journal, ledger, leases = self.journal, self._store.ledger, self._dispatch.leases
        changes = ledger.take_changes()
        if changes.moves:
            journal.add_moves(changes.moves)
        for group, frame in changes.stored.values():
            journal.put_group(group, frame)
        for move in changes.moves:
            if move.from_state == _STORED and move.to_state != _BATCHED:
                journal.drop(r.key(r.GROUP, move.ordinal))
        for ordinal in changes.touched | dict.fromkeys(leases.take_changes()):
            lease, entry = leases.find(ordinal), ledger.find(ordinal)
            if lease is not None:
                attempt = 0 if entry is None else entry.attempt
                record = r.TicketRecord(ticket=lease.ticket, attempt=attempt, actor=lease.actor)
                journal.put(r.key(r.TICKET, ordinal), record)
            elif entry is None:
                journal.drop(r.key(r.TICKET, ordinal))
        if self._validation.changed:
            journal.put(r.SWEEPS, self._validation.records())
            journal.put(r.SCORES, self._validation.scores)
            self._validation.changed = False

    def commit(self) -> Future[None] | None:
        """Make all that happened durable: see `Journal.commit`."""
        written = self.journal.commit(self.state())
        self.durable_generation = self._store.generation if written is None else self._written_generation
        self._written_generation = self._store.generation
        return written

    def state(self, *, of_checkpoint: bool = False) -> r.BufferState:
        """The state as of now; `of_checkpoint`: with what a learner that begins another timeline there must issue again."""
        self.collect()
        store = self._store
        entries = store.ledger.entries() if of_checkpoint else []
        return r.BufferState(
            generation=store.generation,
            version=store.version,
            head=store.head,
            epoch=self._membership.epoch,
            ledger={state.value: count for state, count in store.ledger.counts.items()},
            num_moves=self.journal.num_moves,
            next_ordinal=self._dispatch.next_ordinal,
            cursor=store.mixture.cursor,
            retries=[(prompt.uid, attempt) for prompt, attempt in store.retries],
            under_way=[(entry.ticket.prompt.uid, entry.attempt) for entry in entries],
            filtered=store.filter.dropped,
            reported=self._validation.reported,
            checkpoints=list(self.checkpoints),
            stage=store.stage,
            reset_requested=store.reset_requested,
            counters=dict(store.counters.total),
        )

    # --- in -----------------------------------------------------------------------------------------------------------

    def restore(self, now: float, rejoin_grace_s: float) -> None:
        """Become what a dead buffer had recorded, if there was one; its actors have `rejoin_grace_s` to greet.

        Raises: JournalError; DataError for a stage that the configuration does not have.
        """
        state = self.journal.load_state()
        if state is None:
            return
        check_stage(self._store, state)
        tickets = self.journal.tickets()
        stored = set(self.journal.groups())
        self._restore_store(state, [record for record in tickets if record.ticket.kind is TicketKind.train], stored)
        self._validation.restore(self.journal.sweeps(), self.journal.scores(), state.reported)
        self._membership.epoch = state.epoch
        self._dispatch.next_ordinal = state.next_ordinal
        self._dispatch.restore(list(filter(self._is_leased, tickets)), now, rejoin_grace_s)
        self._dispatch.leases.take_changes()  # the journal knows
        self.checkpoints = list(state.checkpoints)
        self.durable_generation = self._written_generation = state.generation

    def _is_leased(self, record: r.TicketRecord) -> bool:
        ordinal = record.ticket.ordinal
        entry = self._store.ledger.find(ordinal)
        return self._validation.expects(ordinal) if entry is None else entry.state is TicketState.leased

    def _restore_store(self, state: r.BufferState, tickets: list[r.TicketRecord], stored: set[int]) -> None:
        store = self._store
        store.generation, store.version = state.generation, state.version
        store.reset_requested = state.reset_requested
        store.filter.dropped = state.filtered
        store.counters.total.update(state.counters)
        store.contract.clear(state.head)
        entries = []
        for record in tickets:
            ordinal = record.ticket.ordinal
            entry = Entry(ticket=record.ticket, attempt=record.attempt, state=TicketState.leased)
            store.contract.issue(ordinal, record.ticket.version)
            if ordinal in stored:
                entry.state, entry.group = TicketState.stored, self.journal.group(ordinal)
                store.contract.store(ordinal, store.deadline_version(entry.group))
            entries.append(entry)
        store.ledger.restore({TicketState(name): count for name, count in state.ledger.items()}, entries)
        store.check()
        resume_prompts(store, state)


def check_stage(store: Store, state: r.BufferState) -> None:
    """Raise DataError unless the configuration has the stage of `state`."""
    if state.stage >= len(store.stages):
        raise DataError(
            f"the run was recorded in stage {state.stage}, the configuration has {len(store.stages)} (counted from 0); "
            "restore stages, or start a run of another name"
        )


def resume_prompts(store: Store, state: r.BufferState) -> None:
    """Draw prompts as it was done at `state`; first those that it knew as untrained."""
    check_stage(store, state)
    store.enter(state.stage)
    store.mixture.restore(state.cursor)
    found = ((store.mixture.find(uid), attempt) for uid, attempt in [*state.under_way, *state.retries])
    store.retries.clear()
    store.retries.extend((prompt, attempt) for prompt, attempt in found if prompt is not None)
