"""A client's side of the protocol, without socket, clock or thread: handshake, heartbeats, silence, what must be sent again.

    greeting --Welcome--> up         up --new connection, silence > lease_s, or Alive(known=False)--> greeting
    greeting --6 x silence, Refused, or an unknown key--> ended         up --Stop--> up, and every inbox ends

While greeting only Hello goes out; everything else is held. After each Welcome what has no answer yet is sent again, first:
groups until their GroupAck, TakeBatch until BatchReady, Publish until PublishPlan, Finish until Finished.
Hello leaves once per connection: a second one of a fresh learner would begin a second generation. But every new connection gets
one, because what was under way in the broken one is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from typing import Any

import msgspec

from ...common.errors import BufferUnreachable, HandshakeRefused, ProlongError, RunStopped
from ...common.messages import (
    Alive,
    BatchReady,
    Finish,
    Finished,
    GroupAck,
    GroupResult,
    Heartbeat,
    Hello,
    Publish,
    PublishPlan,
    Refused,
    Role,
    StepDone,
    Stop,
    TakeBatch,
    WeightsApplied,
    Welcome,
)
from ...common.transport.wire import encode

REFUSED_AGAIN_S = 0.25  # between greetings that were refused for now
KEYS_HINT = "the keys may differ: is buffer.keys on both sides what one `prolong keys` made?"
SILENCES = 6  # times lease_s without a word: the buffer is unreachable

Frame = tuple[Hashable, bytes]  # key of what waits for an answer (None: nothing does), encoded message


class Session:
    """One client's conversation; every method is called by the I/O thread only. Times are seconds of one monotonic clock."""

    def __init__(self, hello: Hello, address: str, now: float, timeout_s: float, counters: Counter[str]) -> None:
        self.hello = hello
        self.stats: dict[str, float] = {}
        self.out: deque[Frame] = deque()  # to be sent, in this order
        self.welcome: Welcome | None = None  # the last one
        self.ended: ProlongError | None = None  # nothing more will come
        self.stopped: RunStopped | None = None
        self.counters = counters
        self._address = address
        self._held: deque[Frame] = deque()  # submitted while greeting
        self._unanswered: dict[Hashable, bytes] = {}
        self._wanted: int | None = None  # version of the batch that was asked for and is not here yet
        self._greeting = True
        self._deadline = now + timeout_s  # of greeting
        self._patience_s = timeout_s
        self._refusal = ""
        self._shut_out = False  # the last attempt to connect ended in the handshake of keys
        self.is_connected = False
        self._hello_at: float | None = None  # when Hello is due, if it is
        self._heard = now
        self._heartbeat_at = 0.0

    def connected(self, now: float) -> None:
        """A connection to a buffer stands: the first one, or a new one after a break."""
        self.is_connected = True
        self._shut_out = False
        self._hello_at = now
        if not self._greeting:
            self._greet(now)

    def disconnected(self) -> None:
        """The connection broke; ZeroMQ tries for another."""
        self.is_connected = False

    def shut_out(self, *, for_good: bool) -> None:
        """An attempt to connect ended in ZeroMQ's handshake; `for_good`: the buffer does not know our key, and said so."""
        self._shut_out = True
        if for_good and self.ended is None:
            self.ended = self.stopped or BufferUnreachable(
                f"the buffer at {self._address} lets {self.hello.name} not in: it does not know the key; {KEYS_HINT}"
            )

    def submit(self, message: Any, frame: bytes) -> None:
        """Queue a message of the application."""
        key = _question(message)
        if key is not None:
            self._unanswered[key] = frame
        if isinstance(message, TakeBatch):
            self._wanted = message.version
        if isinstance(message, StepDone):  # the next Hello tells the truth
            self.hello = msgspec.structs.replace(self.hello, version=message.version, stage=message.stage)
        elif isinstance(message, WeightsApplied) and not message.error:
            self.hello = msgspec.structs.replace(self.hello, version=message.version)
        (self._held if self._greeting else self.out).append((key, frame))

    def receive(self, message: Any, now: float) -> Any:
        """Take in a message; returns it when it is for the application, else None."""
        self._heard = now
        match message:
            case Welcome():
                self._enter(message, now)
            case Refused():
                self._refused(message, now)
            case Alive():
                if not message.known and not self._greeting:
                    self._greet(now)
            case Stop():
                self.stopped = RunStopped(message.reason, failed=message.failed)
            case _:
                key = _answered(message)
                if isinstance(message, BatchReady) and message.batch.version != self._wanted:
                    self.counters["client/unasked_batches"] += 1  # the second answer to a question that was sent twice
                    return None
                if key == "batch":
                    self._wanted = None
                self._unanswered.pop(key, None)
                return message
        return None

    def tick(self, now: float) -> None:
        """Say what is due: Hello, Heartbeat, or that the buffer cannot be reached."""
        if self.ended is not None:
            return
        if not self._greeting and self.welcome is not None:
            if now - self._heard > self.welcome.lease_s:
                self._greet(now)
            elif now >= self._heartbeat_at:
                self.out.append((None, encode(Heartbeat(stats=self.stats))))
                self._heartbeat_at = now + self.welcome.heartbeat_s
        if self._greeting and now >= self._deadline:
            self.ended = self.stopped or self._unreachable()
        elif self._greeting and self.is_connected and self._hello_at is not None and now >= self._hello_at:
            self.out = deque([(None, encode(self.hello))])
            self._hello_at = None

    def next_tick(self) -> float:
        """When `tick` has something to do, if nothing arrives before."""
        if self._greeting or self.welcome is None:
            return self._deadline if self._hello_at is None or not self.is_connected else min(self._hello_at, self._deadline)
        return min(self._heartbeat_at, self._heard + self.welcome.lease_s + 0.001)

    def flushed(self) -> bool:
        """Whether nothing waits to be sent, and every group that was sent is acknowledged (or will never be: Stop came)."""
        groups_left = self.stopped is None and any(isinstance(key, int) for key in self._unanswered)
        return not self.out and not self._held and not groups_left

    @property
    def is_up(self) -> bool:
        """Whether a flush can still succeed; a buffer that said Stop and left does not come back."""
        return not self._greeting and self.ended is None and (self.is_connected or self.stopped is None)

    def _enter(self, welcome: Welcome, now: float) -> None:
        if self.welcome is not None:
            self.counters["client/rewelcomes"] += 1
        self.welcome = welcome
        if self.hello.role is Role.learner:
            self.hello = msgspec.structs.replace(self.hello, generation=welcome.generation)
        if not self._greeting:
            return
        self._greeting = False
        held_keys = {key for key, _ in self._held}
        again = [(key, frame) for key, frame in self._unanswered.items() if key not in held_keys]
        self.counters["client/sent_again"] += len(again)
        self.out = deque([*again, *self._held])
        self._held.clear()
        self._heartbeat_at = now + welcome.heartbeat_s

    def _greet(self, now: float) -> None:
        assert self.welcome is not None
        self.counters["client/greetings"] += 1
        self._greeting = True
        self._refusal = ""
        self._patience_s = SILENCES * self.welcome.lease_s
        self._deadline = max(self._heard + self._patience_s, now + self.welcome.lease_s)
        self._hello_at = now
        self._held.extendleft(reversed(self.out))
        self.out.clear()

    def _refused(self, refused: Refused, now: float) -> None:
        if not refused.retry:
            self.ended = HandshakeRefused(f"the buffer at {self._address} refused {self.hello.name}: {refused.reason}")
        self._refusal = refused.reason
        self._hello_at = now + REFUSED_AGAIN_S

    def _unreachable(self) -> ProlongError:
        if self._refusal:
            return HandshakeRefused(
                f"the buffer at {self._address} still refused {self.hello.name} after {self._patience_s:g} s: {self._refusal}"
            )
        return BufferUnreachable(
            f"no answer from a buffer at {self._address} within {self._patience_s:g} s; "
            "is `prolong buffer` running, and is buffer.address the same on both sides?"
            + (f" Something answers there, but the handshake fails: {KEYS_HINT}" if self._shut_out else "")
        )


def _question(message: Any) -> Hashable:
    """The key under which a message waits for its answer; None for one that needs none."""
    match message:
        case GroupResult():
            return message.group.ordinal
        case TakeBatch():
            return "batch"
        case Publish():
            return "publish"
        case Finish():
            return "finish"
    return None


def _answered(message: Any) -> Hashable:
    """The key of the question that a message answers."""
    match message:
        case GroupAck():
            return message.ordinal
        case BatchReady():
            return "batch"
        case PublishPlan():
            return "publish"
        case Finished():
            return "finish"
    return None
