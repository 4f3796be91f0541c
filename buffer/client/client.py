"""What actors, learners and observers talk to the buffer through: one I/O thread, inboxes by message type.

    any thread --send--> queue --wake--> I/O thread (Session, DEALER) --ZeroMQ--> buffer
    any thread or event loop <--take-- Inbox <--put-- I/O thread

Heartbeats leave from the I/O thread, so a busy main thread never looks dead.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter, deque
from concurrent.futures import Future
from time import monotonic
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from ...common.errors import BufferUnreachable, ConfigError, DeadlineExceeded, ProlongError, WireError, WireSizeError
from ...common.messages import (
    FromBuffer,
    GroupAck,
    Hello,
    Refused,
    RequestReset,
    ResetNoted,
    Status,
    StatusRequest,
    Stop,
    Welcome,
)
from ...common.transport.keys import load_client_keys
from ...common.transport.sockets import REFUSED, close_watched, connect_dealer
from ...common.transport.wire import Decoder, encode
from .inbox import Inbox as Inbox
from .session import KEYS_HINT, Session

BURST = 64  # frames received before anything else is looked at


class BufferClient:
    """One peer's connection to the buffer. Call `inbox` for what you want to hear, then `connect`."""

    def __init__(self, address: str, hello: Hello, *, max_bytes: int, keys: str = "") -> None:
        """`keys`: the folder `buffer.keys`; empty for a buffer on loopback."""
        self.counters: Counter[str] = Counter()  # rejected frames, unrouted messages, greetings, ...
        self.welcome: Welcome | None = None  # the last one: a buffer that lost its memory begins another generation
        self._address, self._keys = address, keys
        self._hello = hello
        self._max_bytes = max_bytes
        self._decoder: Decoder[Any] = Decoder(FromBuffer, max_bytes)
        self._inboxes: list[Inbox] = []
        self._routes: dict[type, Inbox] = {}
        self._queue: deque[tuple[Any, bytes]] = deque()  # (message, its frame); a dict instead: changes of the Hello
        self._stats: dict[str, float] = {}
        self._handshake: Future[Welcome] = Future()
        self._close_at: float | None = None
        self._closed = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._wake_pending = False
        self._thread: threading.Thread | None = None
        self._ended = False

    def inbox(self, *message_types: type) -> Inbox:
        """Where messages of these types will wait. Before `connect`; a type has one inbox; Stop ends them all."""
        assert self._thread is None, "inboxes are made before connect"
        inbox = Inbox(" or ".join(kind.__name__ for kind in message_types))
        for kind in message_types:
            assert kind not in self._routes, f"{kind.__name__} already has an inbox"
            self._routes[kind] = inbox
        self._inboxes.append(inbox)
        return inbox

    def connect(self, timeout_s: float) -> Welcome:
        """Shake hands; once. Blocks. After an error the client is closed.

        Raises: HandshakeRefused (at the deadline when the buffer said "not yet"), BufferUnreachable (at once for an unknown
        key), ConfigError (no address, no keys).
        """
        assert self._thread is None, "connect is called once"
        context = zmq.Context()
        routing_id = f"{self._hello.role}/{self._hello.name[:64]}/{os.getpid()}/{os.urandom(4).hex()}".encode()
        try:
            keys = load_client_keys(self._keys)
            dealer = connect_dealer(context, self._address, self._max_bytes, routing_id, keys=keys, watch=True)
        except ConfigError:
            context.term()
            self.close(0.0)
            raise
        session = Session(self._hello, self._address, monotonic(), timeout_s, self.counters)
        self._thread = threading.Thread(target=self._run, args=(context, dealer, session), name="buffer-client", daemon=True)
        self._thread.start()
        try:
            return self._handshake.result()
        except ProlongError:
            self.close(0.0)
            raise

    def send(self, message: msgspec.Struct) -> None:
        """Queue a message. Any thread; never blocks. After the end of the conversation it is dropped and counted.

        Raises: WireSizeError for a message over the limit, which the buffer would refuse.
        """
        frame = encode(message)
        if len(frame) > self._max_bytes:
            got = f"{type(message).__name__} of {len(frame)} bytes"
            raise WireSizeError(f"{got}: expected at most {self._max_bytes}; raise buffer.max_message_mb")
        if self._ended:
            self.counters["client/dropped_messages"] += 1
            return
        self._queue.append((message, frame))
        self._wake()

    def set_stats(self, stats: dict[str, float]) -> None:
        """Numbers that leave with the next heartbeats: cumulative seconds, tokens, counts."""
        self._stats = dict(stats)

    def update_hello(self, **changes: Any) -> None:
        """Change what a Hello after a restart of the buffer will say; a learner's StepDone and Welcome do it by themselves."""
        self._queue.append((changes, b""))  # in order with the messages; it can wait until the thread wakes

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is queued and wait until groups are acknowledged, `timeout_s` at most; then disconnect. Once is enough."""
        if self._closed:
            return
        self._closed = True
        self._close_at = monotonic() + timeout_s
        if self._thread is not None:
            self._wake()
            self._thread.join(timeout_s + 5.0)
            if self._thread.is_alive():
                raise DeadlineExceeded(f"the I/O thread of {self._hello.name} did not end within {timeout_s + 5.0:g} s")
        self._wake_reader.close()
        self._wake_writer.close()

    def __enter__(self) -> BufferClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- I/O thread ---------------------------------------------------------------------------------------------------

    def _run(self, context: zmq.Context, dealer: zmq.Socket, session: Session) -> None:
        """Consumes the queue and the socket; blocks on both in one poll; unblocked by a frame, a wake byte or a due heartbeat.
        Stops when the session ended, or when `close` was called and everything is flushed or its time is over."""
        monitor, poller = dealer.get_monitor_socket(), zmq.Poller()
        for source in (dealer, monitor, self._wake_reader):
            poller.register(source, zmq.POLLIN)
        try:
            while session.ended is None and not self._may_close(session):
                self._drain_queue(session)
                session.stats = self._stats
                session.tick(monotonic())
                self._send_frames(dealer, session)
                self._wait(poller, dealer, monitor, session)
                self._receive_frames(dealer, session)
            self._finish(session.ended or BufferUnreachable(f"the connection of {self._hello.name} was closed"))
        except Exception as error:
            self._finish(ProlongError(f"the I/O thread of {self._hello.name} died: {error!r}"))
            raise
        finally:
            linger_s = max(0.0, self._close_at - monotonic()) if self._close_at is not None and session.is_up else 0.0
            close_watched(dealer, linger_s)
            context.term()

    def _may_close(self, session: Session) -> bool:
        if self._close_at is None:
            return False
        return monotonic() >= self._close_at or not session.is_up or (not self._queue and session.flushed())

    def _drain_queue(self, session: Session) -> None:
        while self._queue:
            message, frame = self._queue.popleft()
            if isinstance(message, dict):
                session.hello = msgspec.structs.replace(session.hello, **message)
            else:
                session.submit(message, frame)

    def _send_frames(self, dealer: zmq.Socket, session: Session) -> None:
        while session.out and session.is_connected:
            try:
                dealer.send(session.out[0][1], zmq.NOBLOCK)
            except zmq.Again:
                return  # the buffer is far behind: it stays queued, and poll says when to go on
            session.out.popleft()

    def _wait(self, poller: zmq.Poller, dealer: zmq.Socket, monitor: zmq.Socket, session: Session) -> None:
        until = session.next_tick()
        if self._close_at is not None:
            until = min(until, self._close_at)
        poller.modify(dealer, zmq.POLLIN | (zmq.POLLOUT if session.out and session.is_connected else 0))
        ready = dict(poller.poll(max(0, int(1000 * (until - monotonic())) + 1)))
        if self._wake_reader.fileno() in ready:
            self._wake_reader.recv(4096)
            self._wake_pending = False  # before the queue is drained: a message queued from now on wakes again
        if monitor in ready:
            event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))["event"]
            if event == zmq.EVENT_DISCONNECTED:
                session.disconnected()
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                session.connected(monotonic())
            elif event & REFUSED:
                session.shut_out(for_good=event == zmq.EVENT_HANDSHAKE_FAILED_AUTH)

    def _receive_frames(self, dealer: zmq.Socket, session: Session) -> None:
        for _ in range(BURST):
            try:
                frames = dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = self._decoder.decode(frames[0] if len(frames) == 1 else b"")
            except WireError:
                self.counters["client/rejected_frames"] += 1
                continue
            self._deliver(message, session)

    def _deliver(self, message: Any, session: Session) -> None:
        wanted = session.receive(message, monotonic())
        if isinstance(message, Welcome):
            self.welcome = message
        if isinstance(message, Welcome) and not self._handshake.done():
            self._handshake.set_result(message)
        if isinstance(message, Stop):
            for inbox in self._inboxes:
                assert session.stopped is not None
                inbox.end(session.stopped)
        if wanted is None:
            return
        if type(wanted) in self._routes:
            self._routes[type(wanted)].put(wanted)
        elif not isinstance(wanted, GroupAck):
            self.counters["client/unrouted_messages"] += 1

    def _finish(self, error: ProlongError) -> None:
        self._ended = True
        self.counters["client/dropped_messages"] += len(self._queue)
        for inbox in self._inboxes:
            inbox.end(error)
        if not self._handshake.done():
            self._handshake.set_exception(error)

    def _wake(self) -> None:
        if self._wake_pending:
            return
        self._wake_pending = True
        try:
            self._wake_writer.send(b"\0")
        except BlockingIOError:
            return  # thousands of wake bytes wait already


def request_status(address: str, timeout_s: float, *, max_bytes: int = 1 << 28, keys: str = "") -> Status:
    """Ask a live buffer for everything it knows; no handshake. Blocks. Raises: BufferUnreachable."""
    answer = _ask(address, StatusRequest(), (Status,), timeout_s, max_bytes, keys)
    assert isinstance(answer, Status)
    return answer


def request_reset(address: str, timeout_s: float, *, max_bytes: int = 1 << 28, keys: str = "") -> ResetNoted | Refused:
    """Ask a live buffer to have the reference reset; no handshake. Blocks. Raises: BufferUnreachable (noted or not)."""
    return _ask(address, RequestReset(), (ResetNoted, Refused), timeout_s, max_bytes, keys)


def _ask(address: str, question: msgspec.Struct, answers: tuple[type, ...], timeout_s: float, max_bytes: int, keys: str) -> Any:
    """The first message of one of these types that a buffer answers."""
    deadline = monotonic() + timeout_s
    with zmq.Context() as context:
        dealer = connect_dealer(context, address, max_bytes, keys=load_client_keys(keys))
        try:
            decoder: Decoder[Any] = Decoder(FromBuffer, max_bytes)
            dealer.send(encode(question), zmq.NOBLOCK)
            while dealer.poll(max(0, int(1000 * (deadline - monotonic())))):
                message = decoder.decode(dealer.recv())
                if isinstance(message, answers):
                    return message
        finally:
            dealer.close(linger=0)
    name = type(question).__name__
    hint = f" Or {KEYS_HINT}" if keys else ""
    raise BufferUnreachable(f"no answer to a {name} from a buffer at {address} within {timeout_s:g} s; is it running?{hint}")
