"""What a learner's arrival does to the store: it continues the recorded history, or a generation begins.

A learner that restarts from checkpoint s **continues** when it is of the store's generation and every batch s..head-1 is in the
journal: those steps are redone with the very same batches. Otherwise the generation is fenced off: all of it is stale.
"""

from __future__ import annotations

from ..common.errors import DataError
from ..common.types import TicketState
from .journal import BufferState
from .store import Store
from .validation import Validation

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


def fork(store: Store, version: int, generation: int, stage: int) -> int:
    """A generation begins at `version` and in `stage`; all else that was issued is stale.

    Prompts go on from the checkpoint's state. Returns how many validation scores its learner had been given.
    """
    state = store.journal.load_state(version)
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
        _restore_prompts(store, state)
    store.enter(stage)
    store.journal.forget_from(version)
    store.contract.clear(version)
    store.generation = max(store.generation, generation, 0) + 1
    store.version = version
    return 0 if state is None else state.reported


def retire(store: Store) -> None:
    """The learner made its last version: what is not trained by now never is."""
    _drop_untrained(store)
    if store.head > store.version:  # handed out, and not used
        store.journal.forget_from(store.version)
    store.contract.clear(store.version)


def _drop_untrained(store: Store) -> None:
    for entry in store.ledger.entries():
        store.ledger.move(entry.ticket.ordinal, TicketState.stale)
    store.ledger.shift(TicketState.batched, TicketState.stale, store.ledger.counts[TicketState.batched])


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
    store.reset_requested = store.reset_requested or state.reset_requested
    _restore_prompts(store, state)


def _restore_prompts(store: Store, state: BufferState) -> None:
    if state.stage >= len(store.stages):
        raise DataError(
            f"the run was recorded in stage {state.stage}, the configuration has {len(store.stages)} (counted from 0); "
            "restore stages, or start a run of another name"
        )
    store.enter(state.stage)
    store.mixture.restore(state.cursor)
    found = (store.mixture.find(uid) for uid in state.unfinished)
    store.retries.extend((prompt, 0) for prompt in found if prompt is not None)


def record(store: Store, validation: Validation, *, epoch: int, next_ordinal: int, checkpoints: list[int]) -> BufferState:
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
        validation=list(validation.scores),
        reported=validation.reported,
        checkpoints=checkpoints,
        stage=store.stage,
        reset_requested=store.reset_requested,
    )
