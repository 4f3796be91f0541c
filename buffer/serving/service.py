"""The buffer's socket loop. It owns the socket and the clock; `output_commit.py` and the core behind it decide.

client --frame--> OutputCommit --(commit)--> frame --> client
"""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import suppress
from time import monotonic

import zmq

from ...common.transport.gate import Gate
from ...common.transport.quarantine import Quarantine
from ...common.types import View
from .garbage import rare_searches
from .output_commit import Core, Frame, OutputCommit
from .vitals import BufferVitals

log = logging.getLogger(__name__)

TICK_S = 0.05
BURST = 256  # frames handled between two commits, at most
BURST_BYTES = 4 << 20  # of the frames handled between two commits, at most, unless one frame alone is larger
KEYS_S = 1.0  # how soon a change of the admitted keys is noticed
LINGER_S = 1.0  # time for the last words to leave


class BufferService:
    """Serves one core on one bound ROUTER until the run is over or `stop` is set."""

    def __init__(
        self,
        core: Core,
        router: zmq.Socket,
        max_bytes: int,
        *,
        quarantine: Quarantine | None = None,
        gate: Gate | None = None,
        watch: BufferVitals | None = None,
    ) -> None:
        """`quarantine` is also read by the core, for its status. `gate` admits clients by their keys, if there are keys.

        `watch`: tells the endpoint of the process how the core is, if there is one.
        """
        self.stop = threading.Event()
        self._core, self._gate, self._watch = core, gate, watch
        self._output = OutputCommit(core, max_bytes, quarantine)
        self._poller = zmq.Poller()
        for source in (router, gate.socket) if gate is not None else (router,):
            self._poller.register(source, zmq.POLLIN)
        self._router = router
        # the public keys that the core knows of, and when they are compared with the gate's again
        self._admitted: list[str] = []
        self._keys_at_s = 0.0
        # the journal's thread writes a byte when a commit is done
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._poller.register(self._wake_reader, zmq.POLLIN)

    def run(self) -> None:
        """Serve until the run is over.

        Consumes: frames of clients, and requests to admit a connection. Blocks on: their sockets. Unblocked by: one of them,
        a commit that became durable, or the next tick. Stops when: the core has finished, `stop` is set, or anything raises;
        every client is told of the last two.
        """
        try:
            with rare_searches():
                self._loop()
        except Exception as error:
            self.say_stop(f"the buffer failed: {error}", failed=True)
            raise
        finally:
            self._wake_reader.close()
            self._wake_writer.close()
        if not self._core.finished():
            self.say_stop("the buffer was told to stop")

    def _loop(self) -> None:
        next_tick = monotonic()
        while not self._core.finished() and not self.stop.is_set():
            ready = dict(self._poller.poll(max(0, int(1000 * (next_tick - monotonic())) + 1)))
            if self._gate is not None and self._gate.socket in ready:
                self._admit(self._gate)
            if self._wake_reader.fileno() in ready:
                self._wake_reader.recv(4096)
            if self._router in ready:
                self._receive_burst()
            now = monotonic()
            self._pass_on_keys(now)
            self._output.tick(now)
            self._flush(now)
            if self._watch is not None:
                self._watch.note(now, self._output.full)
            next_tick = now + TICK_S

    def _admit(self, gate: Gate) -> None:
        num_refused = gate.answer()
        if num_refused > 0:
            self._core.count("buffer/refused_keys", num_refused)

    def _pass_on_keys(self, now: float) -> None:
        """Tell the core which keys are admitted, when that has changed."""
        if self._gate is None or now < self._keys_at_s:
            return
        self._keys_at_s = now + KEYS_S
        keys = self._gate.keys()
        if keys != self._admitted:
            self._admitted = keys
            self._core.admit_keys(keys)

    def _flush(self, now: float) -> None:
        writing = self._output.writing
        self._send(self._output.flush(now))
        if self._output.writing is not None and self._output.writing is not writing:
            self._output.writing.add_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        with suppress(OSError):  # the loop is over, and the sockets are closed
            self._wake_writer.send(b"\0")

    def say_stop(self, reason: str, *, failed: bool = False) -> None:
        """Send Stop to every client. A client that is gone, or far behind, does not get it."""
        self._send(self._output.last_words(reason, failed=failed))

    def _receive_burst(self) -> None:
        num_bytes = 0
        for _ in range(BURST):
            try:
                parts = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            frames: list[View] = [part.buffer for part in parts[1:]]  # pyright: ignore[reportAssignmentType]
            self._output.receive([parts[0].bytes, *frames], monotonic())
            num_bytes += sum(map(len, frames))
            if num_bytes > BURST_BYTES:
                return

    def _send(self, outgoing: list[Frame]) -> None:
        for peer, frame in outgoing:
            try:
                self._router.send_multipart((peer, frame), zmq.NOBLOCK)
            except zmq.Again:
                # a client that is thousands of frames behind will not catch up
                self._core.count("buffer/dropped_sends")
                log.warning("dropped %d bytes for %s, which does not read", len(frame), peer[:80])
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._core.count("buffer/unreachable_peers")
