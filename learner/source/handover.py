"""The handover of batches from rank 0, which reads them, to the other ranks."""

from __future__ import annotations

from collections.abc import Callable

from ...common.errors import ProlongError
from ...common.messages import BatchReady
from ...common.transport.wire import Decoder, encode
from ...common.types import Batch
from ..ranks import Ranks


class BatchHandover:
    """Gives every rank the batch that rank 0 reads."""

    def __init__(self, ranks: Ranks, max_bytes: int) -> None:
        self._ranks = ranks
        self._decoder = Decoder[BatchReady](BatchReady, max_bytes)
        self.ended: ProlongError | None = None  # the error that ended reading, on rank 0

    def take(self, read: Callable[[], Batch | None]) -> Batch | None:
        """The batch that `read` returns on rank 0, on every rank; None when it returns None or raises a ProlongError.

        The error is kept in `ended` instead of raised, so that rank 0 saves a checkpoint together with the other ranks.
        """
        if not self._ranks.first:
            payload = self._ranks.broadcast_bytes(None)
            return self._decoder.decode(payload).batch if payload else None
        batch: Batch | None = None
        try:
            batch = read()
        except ProlongError as error:
            self.ended = error
        if self._ranks.size > 1:
            self._ranks.broadcast_bytes(b"" if batch is None else encode(BatchReady(batch=batch)))
        return batch
