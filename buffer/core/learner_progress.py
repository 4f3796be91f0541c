"""The run as it is recorded: which step the learner is at, which batches were handed out, what a dead process must find again.

Every batch is logged before anybody sees it, so that a learner that restarts is served the very same ones.
"""

from __future__ import annotations

import msgspec

from ...common.config.sections import Config
from ...common.config.stages import total_steps
from ...common.messages import Hello
from ...common.types import Batch
from ..tickets.store import Store
from . import generations
from .dispatch import Dispatch
from .journal_writer import JournalWriter
from .peers import Peers
from .validation import Validation


class LearnerProgress:
    """The side of the buffer that faces the learner."""

    def __init__(self, cfg: Config, writer: JournalWriter, store: Store, validation: Validation, dispatch: Dispatch) -> None:
        self._writer, self._journal = writer, writer.journal
        self._store, self._validation, self._dispatch = store, validation, dispatch
        self._steps, self._keep, self._every = total_steps(cfg), cfg.checkpoint.keep, cfg.checkpoint.every
        self._waiting: int | None = None  # version of the batch that the learner waits for

    def arrive(self, hello: Hello) -> None:
        """A learner comes: it continues this history, or begins a generation. Raises DataError, JournalError.

        Its stage is one that the configuration has.
        """
        version = max(hello.version, 0)
        if generations.continues(self._store, self._journal, version, hello.generation):
            generations.rewind(self._store, version)
            self._store.enter_later(hello.stage)
        else:
            reported = generations.fork(self._store, self._journal, version, hello.generation, hello.stage)
            self._writer.collect()
            self._journal.forget_from(version)
            self._dispatch.leases.clear()
            self._validation.rewind(version if hello.generation > 0 else -1, reported)
            self._writer.checkpoints = [saved for saved in self._writer.checkpoints if saved <= version]
        self._waiting = None
        if version == 0 and self._store.head == 0:
            self._validation.start_whole(0, blocks=True)

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
            self._writer.collect()  # its groups may be of this very burst
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
        self._journal.log_batch(batch)
        return batch

    def request_reset(self) -> int | None:
        """Somebody asks for a reset of the reference: the version of the batch that will say so; None when none is left."""
        if self._store.head >= self._steps:
            return None
        self._store.reset_requested = True
        return self._store.head

    def advance(self, version: int, stage: int = 0) -> None:
        """The learner says that it made `version`, and is in `stage` now: news only if that is the step of the batch it has."""
        if version == self._store.version + 1 and version <= self._store.head:
            self._store.step_done()
            if version < self._steps:
                self._validation.maybe_start_between(version)
            if version % self._every == 0:
                self._journal.save_state(version, self._writer.state(of_checkpoint=True))
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
        self._dispatch.end_training_leases()
        handed_out = self._store.head
        generations.mark_untrained_stale(self._store)
        if handed_out > version:  # and not used
            self._writer.collect()
            self._journal.forget_from(version)
        self._validation.start_whole(version, blocks=False)
        return True

    def checkpoint(self, version: int) -> bool:
        """A checkpoint is durable: batches before the oldest that the learner retains need not be served again.

        False for a version that was not made yet: batches that are still to be trained would be forgotten.
        """
        if not 0 <= version <= self._store.version:
            return False
        saved = sorted({*self._writer.checkpoints, version})[-self._keep :]
        self._writer.checkpoints = saved
        self._journal.save_state(version, self._writer.state(of_checkpoint=True))
        self._journal.forget_before(saved[0])
        return True
