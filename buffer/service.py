"""The buffer's socket loop: frames in, core, frames out. Owns socket, codec and clock; every decision is the core's.

client --frame--> decode --message--> core.handle --(peer, message)--> encode --frame--> client
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

import zmq

from ..common.errors import WireError, WireSizeError
from ..common.messages import BatchReady, FromClient
from ..common.wire import Decoder, encode
from .core import Outgoing
from .gate import Gate
from .quarantine import Quarantine

log = logging.getLogger(__name__)

TICK_S = 0.05
BURST = 256  # frames handled between two ticks at most
LINGER_S = 1.0  # for the last words


class Core(Protocol):
    """What decides; `BufferCore` is the real one. Pure: no socket, no clock, no thread."""

    def handle(self, peer: bytes, message: FromClient, now: float) -> list[Outgoing]: ...

    def tick(self, now: float) -> list[Outgoing]: ...

    def finished(self) -> bool: ...

    def stop(self, reason: str, *, failed: bool) -> list[Outgoing]: ...

    def count(self, name: str, amount: int = 1) -> None: ...


class BufferService:
    """Serves one core on one bound ROUTER until the run is over or `stop` is set."""

    def __init__(
        self, core: Core, router: zmq.Socket, max_bytes: int, *, quarantine: Quarantine | None = None, gate: Gate | None = None
    ) -> None:
        """`quarantine`: shared with who tells of it (the core's status). `gate`: of a router with keys."""
        self.stop = threading.Event()
        self._core = core
        self._quarantine = quarantine or Quarantine()
        self._gate = gate
        self._poller = zmq.Poller()
        for socket in (router, gate.socket) if gate is not None else (router,):
            self._poller.register(socket, zmq.POLLIN)
        self._router = router
        self._max_bytes = max_bytes
        self._decoder: Decoder[Any] = Decoder(FromClient, max_bytes)
        self._num_rejected = 0

    def run(self) -> None:
        """Serve.

        Consumes: frames of clients, questions who may connect. Blocks on: their sockets. Unblocked by: one of them, or the next
        tick.
        Stops when: the core has finished, or `stop` is set, or something failed; everybody is told of the last two.
        """
        try:
            self._loop()
        except Exception as error:
            self.tell_everybody(f"the buffer failed: {error}", failed=True)
            raise
        if not self._core.finished():
            self.tell_everybody("the buffer was told to stop")

    def _loop(self) -> None:
        next_tick = monotonic()
        while not self._core.finished() and not self.stop.is_set():
            ready = dict(self._poller.poll(max(0, int(1000 * (next_tick - monotonic())) + 1)))
            if self._gate is not None and self._gate.socket in ready:
                self._gate.answer(self._core.count)
            if self._router in ready:
                self._receive_burst()
            now = monotonic()
            self._send(self._core.tick(now))
            next_tick = now + TICK_S

    def tell_everybody(self, reason: str, *, failed: bool = False) -> None:
        """Send Stop. Best effort: who is gone, or far behind, does not hear it."""
        self._send(self._core.stop(reason, failed=failed))

    def _receive_burst(self) -> None:
        for _ in range(BURST):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(frames)

    def _handle(self, frames: list[bytes]) -> None:
        peer, now = frames[0], monotonic()
        if self._quarantine.holds(peer, now):
            self._core.count("buffer/rejected_frames")
            return
        try:
            message = self._decoder.decode(frames[1] if len(frames) == 2 else b"")
        except WireError as error:
            self._reject(peer, error, now)
            return
        self._send(self._core.handle(peer, message, now))

    def _reject(self, peer: bytes, error: WireError, now: float) -> None:
        """Count every frame; log the 1st, 2nd, 4th, 8th ... so that a flood does not fill the disk."""
        self._core.count("buffer/rejected_frames")
        if self._quarantine.strike(peer, now):
            self._core.count("buffer/quarantines")
        self._num_rejected += 1
        if self._num_rejected.bit_count() == 1:
            log.warning("dropped a frame (%d so far) from %s: %s", self._num_rejected, peer[:80], error)

    def _send(self, outgoing: list[Outgoing]) -> None:
        for peer, message in outgoing:
            frame = encode(message)
            if len(frame) > self._max_bytes:
                raise WireSizeError(_too_large(message, len(frame), self._max_bytes))
            try:
                self._router.send_multipart((peer, frame), zmq.NOBLOCK)
            except zmq.Again:
                self._core.count("buffer/dropped_sends")  # thousands of frames behind: as good as dead
                log.warning("dropped a %s for %s, which does not read", type(message).__name__, peer[:80])
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._core.count("buffer/unreachable_peers")


def _too_large(message: Any, size: int, limit: int) -> str:
    name = type(message).__name__
    which = f" of version {message.batch.version}" if isinstance(message, BatchReady) else ""
    return f"{name}{which} of {size} bytes: expected at most {limit}; raise buffer.max_message_mb on every process"


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` instead of killing this process; the handlers that were there come back afterwards."""

    def request(number: int, _: object) -> None:
        log.warning("%s: stopping", signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
