"""What a learner's arrival does to the store: it continues the recorded history, or a generation begins.

A learner that restarts from checkpoint s **continues** when it is of the store's generation and every batch s..head-1 is in the
journal: those steps are redone with the very same batches. Otherwise the generation is fenced off: all of it is stale.
"""

from __future__ import annotations

from ..common.types import TicketState, ValidationScore
from .journal import BufferState
from .store import Store

RESTART_GAP = 1_000_000  # ordinals skipped by a restarted buffer: tickets issued after its last record may still be under way
LOST = (TicketState.issued, TicketState.leased, TicketState.stored)


def continues(store: Store, version: int, generation: int) -> bool:
    """Whether a learner with this checkpoint goes on in the store's history."""
    if generation != store.generation or generation < 1 or not 0 <= version <= store.head:
        return False
    recorded = [logged for logged in store.journal.versions() if version <= logged < store.head]
    return len(recorded) == store.head - version


def rewind(store: Store, version: int) -> None:
    """The learner stands at `version` of this generation: steps after it are to be redone, steps before it are done."""
    redone = (store.version - version) * store.batch_groups
    if redone > 0:
        store.ledger.shift(TicketState.trained, TicketState.batched, redone)
    elif redone < 0:
        store.ledger.shift(TicketState.batched, TicketState.trained, -redone)
    store.version = version


def fork(store: Store, version: int, generation: int) -> None:
    """A generation begins at `version`; all else that was issued is stale. Prompts go on from the checkpoint's state."""
    state = store.journal.load_state(version)
    for entry in store.ledger.entries():
        store.ledger.move(entry.ticket.ordinal, TicketState.stale)
    store.ledger.shift(TicketState.batched, TicketState.stale, store.ledger.counts[TicketState.batched])
    surplus = store.ledger.counts[TicketState.trained] - version * store.batch_groups
    if surplus >= 0:
        store.ledger.shift(TicketState.trained, TicketState.stale, surplus)
    else:
        store.ledger.adopt(-surplus)
    store.retries.clear()
    if state is not None and state.generation == generation:
        _restore_prompts(store, state)
    store.journal.forget_from(version)
    store.contract.clear(version)
    store.generation = max(store.generation, generation, 0) + 1
    store.version = version


def restore(store: Store, state: BufferState) -> None:
    """Become what a dead buffer had recorded. Its tickets under way and stored groups are lost: failed, and to be reissued."""
    counts = {TicketState(name): count for name, count in state.ledger.items()}
    lost = sum(counts[kind] for kind in LOST)
    counts |= dict.fromkeys(LOST, 0) | {TicketState.failed: counts[TicketState.failed] + lost}
    store.counters.count("buffer/lost_at_restart", lost)
    store.ledger.restore(counts)
    store.generation, store.version = state.generation, state.version
    store.contract.clear(state.head)
    store.retries.clear()
    _restore_prompts(store, state)


def _restore_prompts(store: Store, state: BufferState) -> None:
    store.mixture.restore(state.cursor)
    found = (store.mixture.find(uid) for uid in state.unfinished)
    store.retries.extend((prompt, 0) for prompt in found if prompt is not None)


def record(
    store: Store, *, epoch: int, next_ordinal: int, validation: list[ValidationScore], checkpoints: list[int]
) -> BufferState:
    """What `restore` needs, as of now."""
    under_way = [entry.ticket.prompt.uid for entry in store.ledger.entries()]
    return BufferState(
        generation=store.generation,
        version=store.version,
        head=store.head,
        epoch=epoch,
        ledger={state.value: count for state, count in store.ledger.counts.items()},
        next_ordinal=next_ordinal,
        cursor=store.mixture.cursor,
        unfinished=under_way + [prompt.uid for prompt, _ in store.retries],
        validation=validation,
        checkpoints=checkpoints,
    )
