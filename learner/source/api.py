"""The seam between the learner's loop and the world outside it: batches come in, versions go out.

    source.take -> train -> source.step_done, source.publish -> checkpoint -> source.checkpoint_saved

`live.LiveSource` talks to a buffer, `recorded.RecordedSource` reads the batches of a recorded run. Another source is one file.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ...common.errors import ProlongError
from ...common.messages import Status
from ...common.types import Batch, StepEvidence
from ..model.policy import Policy


class BatchSource(Protocol):
    """One rank's batch source; every rank has its own. The main thread alone calls it.

    A call marked "collective" is made by all ranks at the same place of the loop and may wait for the others, as long as the
    timeouts of `Ranks` allow. On ranks other than 0 the remaining calls do nothing. Arguments may change after the call
    returns. Calls raise RuntimeError when another rank is gone.

    Example:
        source.connect(version, generation, stage)
        source.open_weights(policy, device)
        source.publish(version, policy)
        while (batch := source.take(version)) is not None:
            trainer.train(batch)
            version += 1
            source.step_done(version, stage, saves=False, evidence=evidence)
            source.publish(version, policy)
        source.close()
    """

    @property
    def ended(self) -> ProlongError | None:
        """Why rank 0 has no more batches, if it was an error or the end of the run; None also after a stop."""
        ...

    @property
    def generation(self) -> int:
        """The generation that the next checkpoint belongs to; -1 on ranks other than 0."""
        ...

    def connect(self, version: int, generation: int, stage: int) -> None:
        """Announce a learner at `version`, of a checkpoint of `generation` (-1: none), in stage `stage`. First; collective.

        Blocks until the other side answers, `learner.starve_s` at most.
        Raises: on every rank RunStopped, when told to stop first; on rank 0 ModelError (no tokenizer), HandshakeRefused,
        BufferUnreachable, JournalError (the recorded batches do not lead on from `version`).
        """
        ...

    def open_weights(self, policy: Policy, device: torch.device) -> None:
        """Prepare to publish weights with the names and shapes of `policy`. Once, before `publish`. Raises: WeightsError."""
        ...

    def take(self, version: int) -> Batch | None:
        """The batch for the step that starts from `version`; None when there are no more (see `ended`). Collective.

        Blocks until the staleness contract allows a batch, `learner.starve_s` at most. The batch fulfils the contract.
        """
        ...

    def publish(self, version: int, policy: Policy) -> None:
        """Send the weights to the actors; returns once they are copied. Collective. Raises: WeightsError, ProlongError."""
        ...

    def step_done(self, version: int, stage: int, *, saves: bool, evidence: StepEvidence) -> None:
        """The batch of `version - 1` is trained, and the next one belongs to `stage`.

        `saves`: `version` will be saved. `evidence`: what the step says of the staleness of its batch.
        """
        ...

    def halt(self, reason: ProlongError) -> None:
        """The run stops here: the next `take` gives None, and `ended` is `reason`. By every rank, or by none.

        A recorded run goes on: its history tells what came next.
        """
        ...

    def checkpoint_saved(self, version: int) -> None:
        """A checkpoint of `version` is durable: earlier batches need not be served again. Never blocks."""
        ...

    def finish(self, version: int) -> Status | None:
        """`version` was the last one: wait for its validation. None without a status: other ranks, a stop, a recorded run.

        Blocks `learner.starve_s` at most. Raises on rank 0: LearnerStarved, BufferUnreachable, RunStopped.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers of the weights plane, for the record of a step."""
        ...

    def close(self) -> None:
        """Leave; messages sent before are delivered first. Also after a failed `connect`, or without one."""
        ...
