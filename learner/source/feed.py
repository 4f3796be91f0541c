"""Where the learner's batches come from: rank 0 asks the buffer and hands the bytes to the other ranks."""

from __future__ import annotations

import threading
from time import monotonic

from ...buffer.client.client import BufferClient, Inbox
from ...common.config.sections import Config
from ...common.errors import DeadlineExceeded, LearnerStarved, ProlongError
from ...common.messages import BatchReady, TakeBatch
from ...common.transport.wire import Decoder, encode
from ...common.types import Batch
from ..algorithm.samples import check_staleness
from ..ranks import Ranks

POLL_S = 0.25  # how soon a stop or a new generation is noticed


class BatchFeed:
    """`client` and `inbox` (of BatchReady) on rank 0 only. `ended` tells rank 0 why there are no more batches."""

    def __init__(
        self, cfg: Config, ranks: Ranks, client: BufferClient | None, inbox: Inbox[BatchReady] | None, stop: threading.Event
    ) -> None:
        self._cfg, self._ranks, self._client, self._inbox, self._stop = cfg, ranks, client, inbox, stop
        self._decoder: Decoder[BatchReady] = Decoder(BatchReady, cfg.buffer.max_message_mb << 20)
        self.ended: ProlongError | None = None

    def take(self, version: int) -> Batch | None:
        """The batch of `version`, on every rank; None when the run stops here (`stop` is set, or `ended` says why).

        Blocks until the buffer's contract allows a batch, `learner.starve_s` at most.
        """
        if not self._ranks.first:
            payload = self._ranks.broadcast_bytes(None)
            return self._decoder.decode(payload).batch if payload else None
        batch = None
        try:
            batch = self._ask(version)
        except ProlongError as error:
            self.ended = error
        if self._ranks.size > 1:
            self._ranks.broadcast_bytes(b"" if batch is None else encode(BatchReady(batch=batch)))
        return batch

    def _ask(self, version: int) -> Batch | None:
        assert self._client is not None
        assert self._inbox is not None
        deadline, asked = monotonic() + self._cfg.learner.starve_s, -1
        while not self._stop.is_set():
            generation = self.generation
            if generation != asked:  # the first time, and again when a buffer without memory began another generation
                self._client.send(TakeBatch(generation=generation, version=version))
                asked = generation
            try:
                batch: Batch = self._inbox.take(POLL_S).batch
            except DeadlineExceeded:
                if monotonic() > deadline:
                    raise LearnerStarved(
                        f"no batch of version {version} within learner.starve_s = {self._cfg.learner.starve_s:g} s; do actors "
                        "run, and do they finish groups (prolong status)?"
                    ) from None
                continue
            if batch.generation == self.generation:
                buffer = self._cfg.buffer
                check_staleness(batch, version=version, generation=generation, eta=buffer.eta, straggler=buffer.straggler)
                return batch
        return None

    @property
    def generation(self) -> int:
        """Of the buffer's last Welcome. Rank 0 only."""
        assert self._client is not None
        assert self._client.welcome is not None
        return self._client.welcome.generation
