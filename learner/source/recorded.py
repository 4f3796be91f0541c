"""A run from its history: recorded batches instead of a live buffer, so that a learner runs again without actors.

`RecordedLink` has the methods of `live.Link`. Its batches come from the journal of a run (buffer/journal/journal.py), which the
caller opens and passes in, because the learner knows the buffer by its client alone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import torch

from ...common.config.sections import Config
from ...common.errors import JournalError, ProlongError, RunStopped
from ...common.messages import BatchReady, Status
from ...common.transport.wire import Decoder, encode
from ...common.types import Batch
from ..algorithm.samples import check_staleness
from ..model.policy import Policy
from ..ranks import Ranks


class History(Protocol):
    """What is asked of a journal. Calls raise JournalError when the disk fails."""

    def batch(self, version: int) -> Batch | None:
        """The recorded batch of the step that starts from `version`."""
        ...

    def versions(self) -> list[int]:
        """Versions of the recorded batches, ascending."""
        ...

    def close(self) -> None:
        """Release the disk."""
        ...


@dataclass(frozen=True, slots=True)
class UpTo:
    """The part of a history that makes the versions up to `last`."""

    history: History
    last: int

    def batch(self, version: int) -> Batch | None:
        """The recorded batch of the step that starts from `version`; None from `last` on."""
        return self.history.batch(version) if version < self.last else None

    def versions(self) -> list[int]:
        """Versions of the recorded batches, ascending."""
        return [version for version in self.history.versions() if version < self.last]

    def close(self) -> None:
        """Release the disk."""
        self.history.close()


class RecordedFeed:
    """Recorded batches in order, as `feed.BatchFeed` gives live ones. `ended` tells rank 0 why there are no more."""

    def __init__(self, cfg: Config, ranks: Ranks, history: History | None, stop: threading.Event) -> None:
        self._cfg, self._ranks, self._history, self._stop = cfg, ranks, history, stop
        self._decoder: Decoder[BatchReady] = Decoder(BatchReady, cfg.buffer.max_message_mb << 20)
        self.ended: ProlongError | None = None
        self.generation = -1  # of the batch that was given last; rank 0 only

    def take(self, version: int) -> Batch | None:
        """The batch of `version`, on every rank; None when the history or the run stops here. Collective, never waits."""
        if not self._ranks.first:
            payload = self._ranks.broadcast_bytes(None)
            return self._decoder.decode(payload).batch if payload else None
        batch = None
        try:
            batch = None if self._stop.is_set() else self._read(version)
        except ProlongError as error:
            self.ended = error
        if self._ranks.size > 1:
            self._ranks.broadcast_bytes(b"" if batch is None else encode(BatchReady(batch=batch)))
        return batch

    def _read(self, version: int) -> Batch:
        assert self._history is not None
        batch = self._history.batch(version)
        if batch is None:
            raise RunStopped(f"the recorded history ends at version {version}")
        buffer = self._cfg.buffer
        check_staleness(batch, version=version, generation=batch.generation, eta=buffer.eta, straggler=buffer.straggler)
        self.generation = batch.generation
        return batch


class RecordedLink:
    """`history` on rank 0 only; `close` closes it. Nobody is told of steps, weights and checkpoints."""

    def __init__(self, cfg: Config, ranks: Ranks, history: History | None, stop: threading.Event) -> None:
        """`stop` ends the run at the next batch."""
        self._history = history
        self.feed = RecordedFeed(cfg, ranks, history, stop)

    def connect(self, version: int, generation: int, stage: int) -> None:
        """Raises: JournalError when the history cannot take a learner on from `version`."""
        if self._history is None:
            return
        versions = self._history.versions()
        if not versions:
            raise JournalError("the recorded history holds no batch: there is nothing to run again")
        if not versions[0] <= version <= versions[-1] + 1:
            raise JournalError(
                f"the recorded history holds the steps from version {versions[0]} to {versions[-1] + 1}: a learner at version "
                f"{version} cannot go on from there; begin with a checkpoint of one of these versions"
            )
        self.feed.generation = generation

    @property
    def generation(self) -> int:
        """Of the timeline that the last batch is of; before the first, the learner's own; -1 on other ranks."""
        return self.feed.generation

    def open_weights(self, policy: Policy, device: torch.device) -> None:
        """Nobody takes them."""

    def publish(self, version: int, policy: Policy) -> None:
        """Nobody takes them."""

    def step_done(self, version: int, stage: int) -> None:
        """Nobody counts them."""

    def checkpoint_saved(self, version: int) -> None:
        """The history stays as it is."""

    def finish(self, version: int) -> Status | None:
        """None: there is no last validation, no ledger, and hence no summary."""
        return None

    def metrics(self) -> dict[str, float]:
        """None of its own; the batches carry what was recorded."""
        return {}

    def close(self) -> None:
        """Release the history."""
        if self._history is not None:
            self._history.close()
