"""What a learner's arrival does to the store: it continues the recorded history, or a generation begins.

A learner that restarts from checkpoint s **continues** when it is of the store's generation and every batch s..head-1 is in the
journal: those steps are redone with the very same batches. Otherwise the generation is fenced off: all of it is stale.
"""

from __future__ import annotations

from ...common.types import TicketState
from ..journal.journal import Journal
from ..tickets.store import Store
from .journal_writer import resume_prompts


def continues(store: Store, journal: Journal, version: int, generation: int) -> bool:
    """Whether a learner with this checkpoint goes on in the store's history."""
    if generation != store.generation or generation < 1 or not 0 <= version <= store.head:
        return False
    recorded = [logged for logged in journal.versions() if version <= logged < store.head]
    return len(recorded) == store.head - version


def rewind(store: Store, version: int) -> None:
    """The learner stands at `version` of this generation: steps after it are to be redone, steps before it are done."""
    redone = (store.version - version) * store.batch_groups
    if redone > 0:
        store.ledger.shift(TicketState.trained, TicketState.batched, redone)
    elif redone < 0:
        store.ledger.shift(TicketState.batched, TicketState.trained, -redone)
    store.version = version


def fork(store: Store, journal: Journal, version: int, generation: int, stage: int) -> int:
    """A generation begins at `version` and in `stage`; all else that was issued is stale.

    Prompts go on from the checkpoint's state. Returns how many validation scores its learner had been given.
    """
    state = journal.load_state(version)
    _drop_untrained(store)
    surplus = store.ledger.counts[TicketState.trained] - version * store.batch_groups
    if surplus >= 0:
        store.ledger.shift(TicketState.trained, TicketState.stale, surplus)
    else:
        store.ledger.adopt(-surplus)
    store.retries.clear()
    if state is not None and state.generation != generation:
        state = None  # of a timeline that is dead already
    if state is not None:
        resume_prompts(store, state)
    store.enter(stage)
    store.contract.clear(version)
    store.generation = max(store.generation, generation, 0) + 1
    store.version = version
    return 0 if state is None else state.reported


def mark_untrained_stale(store: Store) -> None:
    """The learner made its last version: what is not trained by now never is."""
    _drop_untrained(store)
    store.contract.clear(store.version)


def _drop_untrained(store: Store) -> None:
    for entry in store.ledger.entries():
        store.ledger.move(entry.ticket.ordinal, TicketState.stale)
    store.ledger.shift(TicketState.batched, TicketState.stale, store.ledger.counts[TicketState.batched])
