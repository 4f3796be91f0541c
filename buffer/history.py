"""The run as it is recorded: which step the learner is at, which batches were handed out, what a dead process must find again.

Every batch is logged before anybody sees it, so that a learner that restarts is served the very same ones.
"""

from __future__ import annotations

import msgspec

from ..common.config import Config
from ..common.messages import Hello
from ..common.stages import total_steps
from ..common.types import Batch
from . import timeline
from .dispatch import Dispatch
from .journal import BatchLog, BufferState
from .membership import Membership
from .peers import Peers
from .store import Store
from .validation import Validation


class History:
    """The side of the buffer that faces the learner."""

    def __init__(
        self, cfg: Config, journal: BatchLog, store: Store, validation: Validation, membership: Membership, dispatch: Dispatch
    ) -> None:
        self._journal, self._store, self._validation = journal, store, validation
        self._membership, self._dispatch = membership, dispatch
        self._steps, self._keep, self._every = total_steps(cfg), cfg.checkpoint.keep, cfg.checkpoint.every
        self._made: dict[int, BufferState] = {}  # states of versions whose checkpoints the learner writes meanwhile
        self._checkpoints: list[int] = []  # versions that the learner retains, ascending
        self._waiting: int | None = None  # version of the batch that the learner waits for

    def arrive(self, hello: Hello) -> None:
        """A learner comes: it continues this history, or begins a generation. Raises DataError, JournalError.

        Its stage is one that the configuration has.
        """
        version = max(hello.version, 0)
        if self._store.generation == 0:
            self._restore()
        if timeline.continues(self._store, version, hello.generation):
            timeline.rewind(self._store, version)
            self._store.enter_later(hello.stage)
        else:
            self._made.clear()
            reported = timeline.fork(self._store, version, hello.generation, hello.stage)
            self._dispatch.leases.clear()
            self._validation.rewind(version if hello.generation > 0 else -1, reported)
            self._checkpoints = [saved for saved in self._checkpoints if saved <= version]
        self._waiting = None
        if version == 0 and self._store.head == 0:
            self._validation.start_whole(0, blocks=True)
        self.save()

    def _restore(self) -> None:
        """Become what a dead buffer recorded, if there was one."""
        state = self._journal.load_state()
        if state is None:
            return
        timeline.restore(self._store, state)
        self._validation.restore(state.validation, state.reported)
        self._membership.epoch = state.epoch
        self._dispatch.next_ordinal = state.next_ordinal + timeline.RESTART_GAP
        self._checkpoints = list(state.checkpoints)

    def leave(self) -> None:
        """The learner is gone: nobody waits for a batch."""
        self._waiting = None

    def take(self, version: int) -> bool:
        """The learner waits for the batch of `version`; asking says that it made `version`, should that message have been lost.

        False when this history has no such step.
        """
        self.advance(version)
        if version != self._store.version:
            return False
        self._waiting = version
        return True

    @property
    def waits(self) -> bool:
        """Whether the learner waits for a batch."""
        return self._waiting is not None

    def try_serve(self, peers: Peers) -> Batch | None:
        """The batch that the learner waits for, if the contract allows: a recorded one again, or one that is formed now."""
        if self._waiting is None:
            return None
        if self._waiting < self._store.head:
            batch = self._journal.batch(self._waiting)
            assert batch is not None, f"the batch of version {self._waiting} was forgotten"
        else:
            batch = self._form(peers)
        if batch is not None:
            self._waiting = None
        return batch

    def _form(self, peers: Peers) -> Batch | None:
        """The next batch, logged before anybody sees it."""
        batch = self._store.try_take()
        if batch is None:
            return None
        metrics = batch.metrics | peers.actor_metrics() | self._store.counters.next_step()
        batch = msgspec.structs.replace(
            batch,
            metrics=metrics,
            validation=self._validation.take_unreported(),
            reset_requested=self._store.reset_requested,
        )
        self._store.reset_requested = False
        self._journal.log_batch(batch, self._record())
        return batch

    def request_reset(self) -> int | None:
        """Somebody asks for a reset of the reference: the version of the batch that will say so; None when none is left.

        Durable before it is answered. Before a learner came, what a dead buffer recorded is still in the journal alone.
        """
        state = self._journal.load_state() if self._store.generation == 0 else None
        head = self._store.head if state is None else state.head
        if head >= self._steps:
            return None
        if not self._store.reset_requested:
            self._store.reset_requested = True
            if state is not None:
                self._journal.save_newest(msgspec.structs.replace(state, reset_requested=True))
            elif self._store.generation > 0:
                self.save()
        return head

    def advance(self, version: int, stage: int = 0) -> None:
        """The learner says that it made `version`, and is in `stage` now: news only if that is the step of the batch it has."""
        if version == self._store.version + 1 and version <= self._store.head:
            self._store.step_done()
            if version < self._steps:
                self._validation.maybe_start_between(version)
            if version % self._every == 0:
                self._made[version] = self._record()
        if version == self._store.version:
            self._store.enter_later(stage)

    def finish(self, version: int) -> bool:
        """The learner made its last version, maybe before `total_steps`: what is under way is dropped, the last sweep starts.

        False for a version that was not made.
        """
        self.advance(version)
        if version != self._store.version:
            return False
        self._waiting = None
        self._dispatch.withdraw()
        timeline.retire(self._store)
        self._validation.start_whole(version, blocks=False)
        self.save()
        return True

    def checkpoint(self, version: int) -> bool:
        """A checkpoint is durable: batches before the oldest that the learner retains need not be served again.

        False for a version that was not made yet: batches that are still to be trained would be forgotten.
        """
        if not 0 <= version <= self._store.version:
            return False
        self._checkpoints = sorted({*self._checkpoints, version})[-self._keep :]
        self._journal.save_state(version, self._made.get(version) or self._record())
        self._made = {made: state for made, state in self._made.items() if made > version}
        self.save()
        self._journal.forget_before(self._checkpoints[0])
        return True

    def save(self) -> None:
        """Make the present state durable."""
        self._journal.save_newest(self._record())

    def _record(self) -> BufferState:
        return timeline.record(
            self._store,
            self._validation,
            epoch=self._membership.epoch,
            next_ordinal=self._dispatch.next_ordinal,
            checkpoints=list(self._checkpoints),
        )
