"""Batches of a recorded run, so that a learner runs again without buffer and actors.

They come from the journal of the run (buffer/journal/journal.py); the caller opens it and passes it in, because the learner
may import nothing of the buffer but its client.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import torch

from ...common.config.sections import Config
from ...common.config.trees import largest_eta
from ...common.errors import JournalError, ProlongError, RunStopped
from ...common.messages import Status
from ...common.types import Batch, StepEvidence
from ..algorithm.samples import check_staleness
from ..model.policy import Policy
from ..ranks import Ranks
from .handover import BatchHandover


class RecordedBatches(Protocol):
    """The batches of a recorded run, as a journal holds them. Calls raise JournalError when the disk fails."""

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
    """The recorded batches that make the versions up to `last`."""

    recorded: RecordedBatches
    last: int

    def batch(self, version: int) -> Batch | None:
        """The recorded batch of the step that starts from `version`; None from `last` on."""
        return self.recorded.batch(version) if version < self.last else None

    def versions(self) -> list[int]:
        """Versions of the recorded batches, ascending."""
        return [version for version in self.recorded.versions() if version < self.last]

    def close(self) -> None:
        """Release the disk."""
        self.recorded.close()


class NoBatches:
    """The recorded batches of ranks other than 0, which read none."""

    def batch(self, version: int) -> Batch | None:
        return None

    def versions(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


class RecordedSource:
    """A `BatchSource` over the batches of a recorded run. It reports steps, weights and checkpoints to no other process."""

    def __init__(self, cfg: Config, ranks: Ranks, recorded: RecordedBatches, stop: threading.Event) -> None:
        """`stop` ends the run at the next batch. `close` closes `recorded`, which is NoBatches on ranks other than 0."""
        self._cfg, self._ranks, self._recorded, self._stop = cfg, ranks, recorded, stop
        self._handover = BatchHandover(ranks, cfg.buffer.max_message_mb << 20)
        self._generation = -1  # of the last batch

    @property
    def ended(self) -> ProlongError | None:
        return self._handover.ended

    @property
    def generation(self) -> int:
        return self._generation

    def connect(self, version: int, generation: int, stage: int) -> None:
        if not self._ranks.first:
            return
        versions = self._recorded.versions()
        if not versions:
            raise JournalError("the recorded history holds no batch: there is nothing to run again")
        if not versions[0] <= version <= versions[-1] + 1:
            raise JournalError(
                f"the recorded history holds the steps from version {versions[0]} to {versions[-1] + 1}: a learner at version "
                f"{version} cannot go on from there; begin with a checkpoint of one of these versions"
            )
        self._generation = generation

    def open_weights(self, policy: Policy, device: torch.device) -> None:
        """No actor takes weights."""

    def take(self, version: int) -> Batch | None:
        """See `BatchSource`; never waits for more than the disk."""
        return self._handover.take(lambda: self._read(version))

    def _read(self, version: int) -> Batch | None:
        if self._stop.is_set():
            return None
        batch = self._recorded.batch(version)
        if batch is None:
            raise RunStopped(f"the recorded history ends at version {version}")
        buffer = self._cfg.buffer
        check_staleness(
            batch, version=version, generation=batch.generation, eta=largest_eta(buffer), straggler=buffer.straggler
        )
        self._generation = batch.generation
        return batch

    def publish(self, version: int, policy: Policy) -> None:
        """No actor takes weights."""

    def step_done(self, version: int, stage: int, *, saves: bool, evidence: StepEvidence) -> None:
        """No buffer counts steps."""

    def halt(self, reason: ProlongError) -> None:
        """What stopped the recorded run stopped it; batches of a later start may follow."""

    def checkpoint_saved(self, version: int) -> None:
        """The recorded batches stay as they are."""

    def finish(self, version: int) -> Status | None:
        """None: there is no last validation and no ledger, hence no summary."""
        return None

    def metrics(self) -> dict[str, float]:
        """None: the batches carry the metrics that were recorded."""
        return {}

    def close(self) -> None:
        self._recorded.close()
