"""The buffer without its socket: frames in, frames out, and no frame leaves before the journal holds what it follows from.

    frame --decode--> core.handle --messages--> held --commit--> frames to send

This is output commit: one commit makes durable what a whole burst of frames brought (group commit), then their answers leave.
While the disk is full the core still hears frames, so that clients stay known, but it does nothing that became due and its
answers are held: actors keep their groups, and the learner waits. The messages held are bounded by the work under way.
`service.py` calls it over a socket, the simulator of the tests in virtual time.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Protocol

from ...common.errors import JournalFull, WireError, WireSizeError
from ...common.messages import BatchReady, FromBuffer, FromClient, PublishResult, Refused, Status
from ...common.transport.quarantine import Quarantine
from ...common.transport.wire import Decoder, encode
from ...common.types import View

log = logging.getLogger(__name__)

RETRY_S = 1.0  # between two tries of a commit that found no room
# Their size depends on what clients say of themselves: one that is too large is dropped, and does not end the buffer.
DISPENSABLE = (Status, Refused, PublishResult)

Outgoing = tuple[bytes, FromBuffer]  # (client's socket identity, message)
Frame = tuple[bytes, bytes]  # (client's socket identity, encoded message)


class Core(Protocol):
    """The part that decides; `BufferCore` is the real one. It has no socket, no clock and no thread.

    One thread calls it: `handle` for each message, then `tick`, then `commit`. None of them may block.
    """

    def handle(self, peer: bytes, message: FromClient, now: float, frame: bytes = b"") -> list[Outgoing]:
        """Take in one message; `frame` is what it came in, and may be kept."""
        ...

    def tick(self, now: float) -> list[Outgoing]:
        """Do what became due by `now`."""
        ...

    def commit(self) -> Future[None] | None:
        """Make durable all that happened: it is when this returns None, else when the future is done. Raises JournalFull."""
        ...

    def may_leave(self, message: FromBuffer) -> bool:
        """Whether a message may be sent before the next commit."""
        ...

    def admit_keys(self, keys: list[str]) -> None:
        """These public keys (Z85) may connect now. Called when that has changed, and never where the run has no keys."""
        ...

    def finished(self) -> bool:
        """Whether the service may end."""
        ...

    def stop(self, reason: str, *, failed: bool) -> list[Outgoing]:
        """The messages that tell every client of the end."""
        ...

    def count(self, name: str, amount: int = 1) -> None:
        """Count something that the service dropped."""
        ...


class OutputCommit:
    """One core, and the messages that wait for the disk."""

    def __init__(self, core: Core, max_bytes: int, quarantine: Quarantine | None = None) -> None:
        """`quarantine` is also read by the core, for its status."""
        self.core = core
        # why nothing is acknowledged now
        self.full: JournalFull | None = None
        # the commit under way; call `flush` when it is done
        self.writing: Future[None] | None = None
        self._max_bytes = max_bytes
        self._quarantine = quarantine or Quarantine()
        self._decoder = Decoder[FromClient](FromClient, max_bytes)
        # messages that wait for the next commit, and for the one under way
        self._held: list[Outgoing] = []
        self._committing: list[Outgoing] = []
        # how many of those that wait for the next commit may not leave before it
        self._num_waiting = 0
        self._retry_at = 0.0
        self._num_rejected = 0

    def receive(self, frames: list[View], now: float) -> None:
        """Take in one message: [client's identity, frame]. Values decoded from it keep the frame alive."""
        peer = frames[0]
        if self._quarantine.holds(peer, now):
            self.core.count("buffer/rejected_frames")
            return
        frame = frames[1] if len(frames) == 2 else b""
        try:
            message = self._decoder.decode(frame)
        except WireError as error:
            self._reject(peer, error, now)
            return
        self._held += self.core.handle(peer, message, now, frame)

    def tick(self, now: float) -> None:
        """Let the core do what became due; nothing does while the disk is full."""
        if self.full is None:
            self._held += self.core.tick(now)

    def flush(self, now: float) -> list[Frame]:
        """Commit; returns the frames that may leave now, in order. Raises JournalError, WireSizeError."""
        leaving: list[Outgoing] = []
        if (self.writing is None or self.writing.done()) and (self.full is None or now >= self._retry_at):
            leaving = self._commit(now)
            self._num_waiting = 0
        unasked = self._held[self._num_waiting :]
        del self._held[self._num_waiting :]
        for outgoing in unasked:
            (leaving if self.core.may_leave(outgoing[1]) else self._held).append(outgoing)
        self._num_waiting = len(self._held)
        return self._encode(leaving)

    def last_words(self, reason: str, *, failed: bool) -> list[Frame]:
        """Stop, for every client."""
        return self._encode(self.core.stop(reason, failed=failed))

    def _commit(self, now: float) -> list[Outgoing]:
        """Finish a commit and begin the next; returns the messages that follow from durable changes only."""
        try:
            self.writing = self.core.commit()
        except JournalFull as error:
            self.writing, self._held, self._committing = None, self._committing + self._held, []
            self._retry_at = now + RETRY_S
            if self.full is None:
                self.core.count("buffer/journal_full")
                log.error("%s", error)
            self.full = error
            return []
        durable, self._committing, self._held = self._committing, self._held, []
        if self.writing is None:
            durable, self._committing = durable + self._committing, []
            if self.full is not None:
                log.warning("the journal has room again: going on")
            self.full = None
        return durable

    def _reject(self, peer: bytes, error: WireError, now: float) -> None:
        """Count every malformed frame; log the 1st, 2nd, 4th, 8th ... so that a flood does not fill the disk."""
        self.core.count("buffer/rejected_frames")
        if self._quarantine.strike(peer, now):
            self.core.count("buffer/quarantines")
        self._num_rejected += 1
        if self._num_rejected.bit_count() == 1:
            log.warning("dropped a frame (%d so far) from %s: %s", self._num_rejected, peer[:80], error)

    def _encode(self, outgoing: list[Outgoing]) -> list[Frame]:
        frames: list[Frame] = []
        for peer, message in outgoing:
            frame = encode(message)
            if len(frame) <= self._max_bytes:
                frames.append((peer, frame))
            elif isinstance(message, DISPENSABLE):
                self.core.count("buffer/dropped_sends")
                log.warning("dropped: %s", _too_large(message, len(frame), self._max_bytes))
            else:
                raise WireSizeError(_too_large(message, len(frame), self._max_bytes))
        return frames


def _too_large(message: FromBuffer, size: int, limit: int) -> str:
    name = type(message).__name__
    which = f" of version {message.batch.version}" if isinstance(message, BatchReady) else ""
    return f"{name}{which} of {size} bytes: expected at most {limit}; raise buffer.max_message_mb on every process"
