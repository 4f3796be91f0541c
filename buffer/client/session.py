"""A client's side of the protocol, without socket, clock or thread: handshake, heartbeats, silence, questions asked again.

    greeting --Welcome--> up         up --new connection, silence > lease_s, or Alive(known=False)--> greeting
    greeting --6 x silence, Refused, or an unknown key--> ended         up --Stop--> up, and every inbox ends

While greeting, only Hello is sent; other messages are held. After each Welcome the questions without an answer are sent again,
before the held messages. The class of a question says whether it is asked again, and which answer ends it (common/messages.py).
Hello is sent once per connection: a second one of a fresh learner would begin a second generation. Each new connection gets
one, because messages under way in the broken connection are lost.
"""

from __future__ import annotations

from collections import Counter, deque

import msgspec

from ...common.errors import BufferUnreachable, HandshakeRefused, ProlongError, RunStopped
from ...common.message_kinds import Answer, BufferMessage, ClientMessage, Question, Role
from ...common.messages import (
    Alive,
    FromBuffer,
    Heartbeat,
    Hello,
    Refused,
    StepDone,
    Stop,
    WeightsApplied,
    Welcome,
)
from ...common.transport.wire import encode
from ...common.types import PULL

REFUSED_AGAIN_S = 0.25  # between greetings that were refused for now
KEYS_HINT = "the keys may differ: is buffer.keys on both sides what one `prolong keys` made?"
SILENCES = 6  # times lease_s without a message: the buffer is unreachable
FAR_SILENCES = 60  # for those that pull their weights: over links that may be cut for minutes

# class and key of the answer that a question waits for
AnswerKey = tuple[type[BufferMessage], tuple[int, ...]]
Frame = tuple[AnswerKey | None, bytes]  # (key of a question that is asked again, encoded message)


class Session:
    """One client's conversation; only the I/O thread calls its methods. Times are seconds of one monotonic clock."""

    def __init__(self, hello: Hello, address: str, now: float, handshake_timeout_s: float, counters: Counter[str]) -> None:
        self.hello = hello
        self.stats: dict[str, float] = {}
        self.room: int | None = None
        self.out: deque[Frame] = deque()  # to be sent, in this order
        self.welcome: Welcome | None = None  # the last one
        self.ended: ProlongError | None = None  # why no more messages will come
        self.stopped: RunStopped | None = None
        self.counters = counters
        self._address = address
        self._held: deque[Frame] = deque()  # submitted while greeting
        self._open: dict[AnswerKey, bytes] = {}  # questions without an answer, oldest first
        self._awaited: set[AnswerKey] = set()  # those of them that `close` waits for
        self._greeting = True
        self._limit_s = handshake_timeout_s  # of this greeting
        self._deadline = now + handshake_timeout_s
        self._refusal = ""
        self._shut_out = False  # the last attempt to connect ended in the handshake of keys
        self.is_connected = False
        self._hello_at: float | None = None  # when Hello is due, if it is
        self._heard = now
        self._heartbeat_at = self._heartbeat_s = 0.0

    def connected(self, now: float) -> None:
        """A connection to a buffer stands: the first one, or a new one after a break."""
        self.is_connected = True
        self._shut_out = False
        self._hello_at = now
        if not self._greeting:
            self._greet(now)

    def disconnected(self) -> None:
        """The connection broke; ZeroMQ tries to make another."""
        self.is_connected = False

    def shut_out(self, *, unknown_key: bool) -> None:
        """An attempt to connect failed in ZeroMQ's handshake. `unknown_key`: the buffer said so, and the session ends."""
        self._shut_out = True
        if unknown_key and self.ended is None:
            self.ended = self.stopped or BufferUnreachable(
                f"the buffer at {self._address} does not admit {self.hello.name}: it does not know the key; {KEYS_HINT}"
            )

    def submit(self, message: ClientMessage, frame: bytes) -> None:
        """Queue a message of the application."""
        key = self._ask(message, frame) if isinstance(message, Question) and message.asked_again else None
        # the next Hello says where the client is by then
        if isinstance(message, StepDone):
            self.hello = msgspec.structs.replace(self.hello, version=message.version, stage=message.stage)
        elif isinstance(message, WeightsApplied) and not message.error:
            self.hello = msgspec.structs.replace(self.hello, version=message.version, generation=message.generation)
        (self._held if self._greeting else self.out).append((key, frame))

    def _ask(self, question: Question[BufferMessage], frame: bytes) -> AnswerKey:
        """Remember a question until its answer."""
        key = question.answer_type(), question.key()
        if question.newest_only:
            self._open = {other: asked for other, asked in self._open.items() if other[0] is not key[0]}
            self._awaited &= self._open.keys()
        self._open[key] = frame
        if question.close_waits:
            self._awaited.add(key)
        return key

    def receive(self, message: FromBuffer, now: float) -> FromBuffer | None:
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
                self._heartbeat_s = message.heartbeat_s or self._heartbeat_s
            case Stop():
                self.stopped = RunStopped(message.reason, failed=message.failed)
            case Answer():
                return message if self._is_answered(message) else None
            case _:
                return message
        return None

    def _is_answered(self, answer: Answer) -> bool:
        """Close the question of an answer; False if there is none, and an answer of its class comes only once."""
        key = type(answer), answer.key()
        was_open = self._open.pop(key, None) is not None
        self._awaited.discard(key)
        if not was_open and answer.only_once:
            self.counters["client/unasked_answers"] += 1
            return False
        return True

    def tick(self, now: float) -> None:
        """Say what is due: Hello, Heartbeat, or that the buffer cannot be reached."""
        if self.ended is not None:
            return
        if not self._greeting and self.welcome is not None:
            if now - self._heard > self.welcome.lease_s:
                self._greet(now)
            elif now >= self._heartbeat_at:
                self.out.append((None, encode(Heartbeat(stats=self.stats, room=self.room))))
                self._heartbeat_at = now + self._heartbeat_s
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
        """Whether all messages are sent, and the answers that `close` waits for are here (or can no longer come: Stop)."""
        answers_missing = self.stopped is None and bool(self._awaited)
        return not self.out and not self._held and not answers_missing

    @property
    def is_up(self) -> bool:
        """Whether a flush can still succeed; a buffer that said Stop and left does not come back."""
        return not self._greeting and self.ended is None and (self.is_connected or self.stopped is None)

    def _enter(self, welcome: Welcome, now: float) -> None:
        if self.welcome is not None:
            self.counters["client/rewelcomes"] += 1
        self.welcome, self._heartbeat_s = welcome, welcome.heartbeat_s
        if self.hello.role is Role.learner:
            self.hello = msgspec.structs.replace(self.hello, generation=welcome.generation)
        if not self._greeting:
            return
        self._greeting = False
        held_keys = {key for key, _ in self._held}
        again = [(key, frame) for key, frame in self._open.items() if key not in held_keys]
        self.counters["client/sent_again"] += len(again)
        self.out = deque([*again, *self._held])
        self._held.clear()
        self._heartbeat_at = now + welcome.heartbeat_s

    def _greet(self, now: float) -> None:
        assert self.welcome is not None
        self.counters["client/greetings"] += 1
        self._greeting = True
        self._refusal = ""
        silences = FAR_SILENCES if self.hello.transport == PULL else SILENCES
        silence_limit_s = silences * self.welcome.lease_s
        self._limit_s = silence_limit_s
        self._deadline = max(self._heard + silence_limit_s, now + self.welcome.lease_s)
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
                f"the buffer at {self._address} still refused {self.hello.name} after {self._limit_s:g} s: {self._refusal}"
            )
        return BufferUnreachable(
            f"no answer from a buffer at {self._address} within {self._limit_s:g} s; "
            "is `prolong buffer` running, and is buffer.address the same on both sides?"
            + (f" Something answers there, but the handshake fails: {KEYS_HINT}" if self._shut_out else "")
        )
