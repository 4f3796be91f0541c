"""A client's connection to the buffer: one I/O thread, and an inbox for each kind of message that the application wants.

    any thread --send--> queue --wake--> I/O thread (Session, DEALER) --ZeroMQ--> buffer
    any thread or event loop <--take-- Inbox <--offer-- I/O thread

Heartbeats are sent by the I/O thread, so a busy main thread never looks dead.

Example:
    client = BufferClient(address, hello, max_bytes=limit)
    batches = client.inbox(BatchReady)
    client.connect(timeout_s=120.0)
    ready = client.ask(batches, lambda g: TakeBatch(generation=g, version=7), deadline_s=600.0, stop=stop)
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Protocol, TypeVar

import zmq
from zmq.utils.monitor import parse_monitor_message

from ...common.errors import (
    BufferUnreachable,
    ConfigError,
    DeadlineExceeded,
    ProlongError,
    RunStopped,
    WireError,
    WireSizeError,
)
from ...common.message_kinds import Answer, BufferMessage, ClientMessage, Question
from ...common.messages import (
    FromBuffer,
    FromClient,
    GroupAck,
    Hello,
    Stop,
    Welcome,
)
from ...common.transport.keys import load_client_keys
from ...common.transport.sockets import REFUSED, WATCHED, close_watched, connect_dealer
from ...common.transport.wire import Decoder, encode
from .inbox import Inbox
from .session import Session

log = logging.getLogger(__name__)

BURST = 64  # frames received before the queue and the clock are looked at again
SAID_S = 5.0  # without a buffer, before the log says which address is tried
POLL_S = 0.25  # how soon a wait notices `stop` or a new generation
JOIN_S = 5.0  # for the I/O thread to end, after the time that `close` was given

M = TypeVar("M", bound=BufferMessage)
A = TypeVar("A", bound=Answer)


class _AnyInbox(Protocol):
    """An inbox of any types, as the I/O thread sees it."""

    def offer(self, message: BufferMessage) -> bool: ...

    def end(self, error: ProlongError) -> None: ...


class BufferClient:
    """One peer's connection to the buffer. Make its inboxes with `inbox`, then `connect`."""

    def __init__(self, address: str, hello: Hello, *, max_bytes: int, keys: str = "") -> None:
        """`keys`: the folder `buffer.keys`; empty for a buffer on loopback."""
        self.counters: Counter[str] = Counter()  # rejected frames, unrouted messages, greetings, ...
        # the last one: a buffer that lost its memory begins another generation
        self.welcome: Welcome | None = None
        self._address, self._keys = address, keys
        self._hello = hello
        self._max_bytes = max_bytes
        self._decoder = Decoder[FromBuffer](FromBuffer, max_bytes)
        self._inboxes: list[_AnyInbox] = []
        self._routed: set[type[BufferMessage]] = set()
        self._queue: deque[tuple[ClientMessage, bytes]] = deque()  # (message, its frame)
        self._stats: dict[str, float] = {}
        self._room: int | None = None
        self._handshake: Future[Welcome] = Future()
        self._close_at: float | None = None
        self._closed = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._wake_pending = False
        self._thread: threading.Thread | None = None
        self._left = threading.Event()  # the I/O thread does nothing more
        self._ended = False

    def inbox(self, *kinds: type[M]) -> Inbox[M]:
        """Where messages of these types will wait. Before `connect`; a type has one inbox; Stop ends all inboxes."""
        assert self._thread is None, "inboxes are made before connect"
        for kind in kinds:
            assert kind not in self._routed, f"{kind.__name__} already has an inbox"
            self._routed.add(kind)
        inbox = Inbox(*kinds)
        self._inboxes.append(inbox)
        return inbox

    def connect(self, timeout_s: float, stop: threading.Event | None = None) -> Welcome:
        """Start the I/O thread and shake hands; once. Blocks until the buffer answers or `stop` is set.

        After an error the client is closed. Raises: HandshakeRefused (at the deadline when the buffer said "not yet"),
        BufferUnreachable (at once for an unknown key), RunStopped (`stop` was set), ConfigError (no address, no keys).
        """
        assert self._thread is None, "connect is called once"
        context = zmq.Context()
        routing_id = f"{self._hello.role}/{self._hello.name[:64]}/{os.getpid()}/{os.urandom(4).hex()}".encode()
        try:
            keys = load_client_keys(self._keys)
            dealer = connect_dealer(context, self._address, self._max_bytes, routing_id, keys=keys, watch=WATCHED)
        except ConfigError:
            context.term()
            self.close(0.0)
            raise
        session = Session(self._hello, self._address, monotonic(), timeout_s, self.counters)
        self._thread = threading.Thread(target=self._run, args=(context, dealer, session), name="buffer-client", daemon=True)
        self._thread.start()
        say_at = monotonic() + SAID_S
        while stop is None or not stop.is_set():
            try:
                return self._handshake.result(POLL_S)
            except TimeoutError:
                if monotonic() >= say_at:
                    log.info("waiting for a buffer at %s, %.0f s at most", self._address, timeout_s)
                    say_at = math.inf
            except ProlongError:
                self.close(0.0)
                raise
        self.close(0.0)
        raise RunStopped("told to stop before the buffer answered")

    @property
    def is_running(self) -> bool:
        """Whether the I/O thread runs: from `connect` until the conversation ends."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def generation(self) -> int:
        """Of the buffer's last Welcome. After `connect`."""
        assert self.welcome is not None, "connect comes first"
        return self.welcome.generation

    def send(self, message: FromClient) -> None:
        """Queue a message. Any thread; never blocks. After the end of the conversation it is dropped and counted.

        Raises: WireSizeError for a message over the limit, which the buffer would refuse.
        """
        self._send(message)

    def _send(self, message: ClientMessage) -> None:
        frame = encode(message)
        if len(frame) > self._max_bytes:
            got = f"{type(message).__name__} of {len(frame)} bytes"
            raise WireSizeError(f"{got}: expected at most {self._max_bytes}; raise buffer.max_message_mb")
        if self._ended:
            self.counters["client/dropped_messages"] += 1
            return
        self._queue.append((message, frame))
        self._wake()

    def ask(
        self, inbox: Inbox[A], question: Callable[[int], Question[A]], *, deadline_s: float, stop: threading.Event
    ) -> A | None:
        """Ask the buffer and wait for the answer, across restarts of the buffer. `inbox`: of the answers.

        The question is made for the generation of the last Welcome and asked again when the buffer begins another one; answers
        for an earlier generation are ignored. Blocks. Returns None once `stop` is set.
        Raises: DeadlineExceeded after `deadline_s`; BufferUnreachable, RunStopped.
        """
        deadline = monotonic() + deadline_s
        asked_generation: int | None = None
        while not stop.is_set():
            if self.generation != asked_generation:
                asked_generation = self.generation
                self._send(question(asked_generation))
            answer = inbox.take_within(POLL_S)
            if answer is not None and answer.is_of(self.generation):
                return answer
            if monotonic() > deadline:
                raise DeadlineExceeded(f"the buffer did not answer within {deadline_s:g} s")
        return None

    def set_stats(self, stats: dict[str, float], room: int | None = None) -> None:
        """Numbers for the next heartbeats: cumulative seconds, tokens, counts; and the room of an actor."""
        self._stats, self._room = dict(stats), room

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is queued and wait until groups are acknowledged, `timeout_s` at most; then disconnect.

        A second call does nothing. Raises: DeadlineExceeded if the I/O thread does not end.
        """
        if self._closed:
            return
        self._closed = True
        self._close_at = monotonic() + timeout_s
        if self._thread is not None:
            self._wake()
            # a signal may have ended `connect` before the thread ran at all, and then it cannot be joined yet
            if not self._left.wait(timeout_s + JOIN_S):
                raise DeadlineExceeded(f"the I/O thread of {self._hello.name} did not end within {timeout_s + JOIN_S:g} s")
            self._thread.join(JOIN_S)
        self._wake_reader.close()
        self._wake_writer.close()

    def __enter__(self) -> BufferClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- I/O thread ---------------------------------------------------------------------------------------------------

    def _run(self, context: zmq.Context, dealer: zmq.Socket, session: Session) -> None:
        """The loop of the I/O thread.

        Consumes: the queue and the socket. Blocks on: both, in one poll. Unblocked by: a frame, a wake byte, a due heartbeat.
        Stops when: the session ended, or `close` was called and everything is flushed or its time is over.
        """
        monitor, poller = dealer.get_monitor_socket(), zmq.Poller()
        for source in (dealer, monitor, self._wake_reader):
            poller.register(source, zmq.POLLIN)
        try:
            while session.ended is None and not self._may_close(session):
                self._drain_queue(session)
                session.stats, session.room = self._stats, self._room
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
            try:
                close_watched(dealer, linger_s)
                context.term()
            finally:
                self._left.set()

    def _may_close(self, session: Session) -> bool:
        if self._close_at is None:
            return False
        return monotonic() >= self._close_at or not session.is_up or (not self._queue and session.flushed())

    def _drain_queue(self, session: Session) -> None:
        while self._queue:
            session.submit(*self._queue.popleft())

    def _send_frames(self, dealer: zmq.Socket, session: Session) -> None:
        while session.out and session.is_connected:
            try:
                dealer.send(session.out[0][1], zmq.NOBLOCK)
            except zmq.Again:
                return  # the buffer is far behind: the frame stays queued, and poll says when to go on
            session.out.popleft()

    def _wait(self, poller: zmq.Poller, dealer: zmq.Socket, monitor: zmq.Socket, session: Session) -> None:
        until = session.next_tick()
        if self._close_at is not None:
            until = min(until, self._close_at)
        poller.modify(dealer, zmq.POLLIN | (zmq.POLLOUT if session.out and session.is_connected else 0))
        ready = dict(poller.poll(max(0, int(1000 * (until - monotonic())) + 1)))
        if self._wake_reader.fileno() in ready:
            self._wake_reader.recv(4096)
            # before the queue is drained: a message queued from now on wakes again
            self._wake_pending = False
        if monitor in ready:
            event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))["event"]
            if event == zmq.EVENT_DISCONNECTED:
                session.disconnected()
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                session.connected(monotonic())
            elif event & REFUSED:
                session.shut_out(unknown_key=event == zmq.EVENT_HANDSHAKE_FAILED_AUTH)

    def _receive_frames(self, dealer: zmq.Socket, session: Session) -> None:
        """Receive what is there, then deliver it: a thread that waits for messages wakes once, and not between any two."""
        received: list[list[bytes]] = []
        for _ in range(BURST):
            try:
                received.append(dealer.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
        for frames in received:
            try:
                message = self._decoder.decode(frames[0] if len(frames) == 1 else b"")
            except WireError:
                self.counters["client/rejected_frames"] += 1
                continue
            self._deliver(message, session)

    def _deliver(self, message: FromBuffer, session: Session) -> None:
        wanted = session.receive(message, monotonic())
        if isinstance(message, Welcome):
            self.welcome = message
            if not self._handshake.done():
                self._handshake.set_result(message)
        if isinstance(message, Stop):
            assert session.stopped is not None
            for inbox in self._inboxes:
                inbox.end(session.stopped)
        if wanted is None or any(inbox.offer(wanted) for inbox in self._inboxes):
            return
        if not isinstance(wanted, GroupAck):
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
        except OSError:
            return  # thousands of wake bytes wait already, or `close` came in between, and nobody is to be woken
