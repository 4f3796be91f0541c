"""Questions to a live buffer without a Hello: `prolong status`, `prolong reset`, the live view. Observers are in no ledger.

Example:
    with Observer.open("tcp://127.0.0.1:5710") as observer:
        print(observer.ask(StatusRequest(), timeout_s=3.0).version)
"""

from __future__ import annotations

from time import monotonic
from typing import TypeVar

import zmq

from ...common.errors import BufferUnreachable, WireError
from ...common.messages import Answer, FromBuffer, Question, Refused, RequestReset, ResetNoted, Status, StatusRequest
from ...common.transport.keys import load_client_keys
from ...common.transport.sockets import connect_dealer
from ...common.transport.wire import Decoder, encode
from .session import KEYS_HINT

MAX_BYTES = 1 << 28  # of an answer
ASK_AGAIN_S = 5.0  # `poll` repeats a request without an answer after this time

A = TypeVar("A", bound=Answer)


class Observer:
    """A socket to one buffer, for one thread."""

    def __init__(self, context: zmq.Context, dealer: zmq.Socket, address: str, max_bytes: int, *, has_keys: bool) -> None:
        self._context, self._dealer, self._address, self._has_keys = context, dealer, address, has_keys
        self._decoder = Decoder[FromBuffer](FromBuffer, max_bytes)
        self._asked_at = float("-inf")
        self._num_rejected = 0  # frames that did not decode; named in the error when there is no answer

    @classmethod
    def open(cls, address: str, keys: str = "", *, max_bytes: int = MAX_BYTES) -> Observer:
        """Connect in the background; `keys`: the folder `buffer.keys`. Raises: ConfigError for an unusable address or keys."""
        client_keys = load_client_keys(keys)
        context = zmq.Context()
        try:
            dealer = connect_dealer(context, address, max_bytes, keys=client_keys)
        except Exception:
            context.term()
            raise
        return cls(context, dealer, address, max_bytes, has_keys=client_keys is not None)

    def ask(self, question: Question[A], timeout_s: float) -> A:
        """The answer to one question. Blocks. Raises: BufferUnreachable after `timeout_s` (the buffer may have heard it)."""
        deadline = monotonic() + timeout_s
        self._send(question)
        while (left_s := deadline - monotonic()) > 0:
            message = self._receive(int(1000 * left_s) + 1)
            if isinstance(message, question.answer_type()):
                return message
        name = type(question).__name__
        hint = f" Or {KEYS_HINT}" if self._has_keys else ""
        rejected = f" ({self._num_rejected} frames did not decode: another version of prolong?)" if self._num_rejected else ""
        raise BufferUnreachable(
            f"no answer to a {name} from a buffer at {self._address} within {timeout_s:g} s{rejected}; is it running?{hint}"
        )

    def poll_status(self) -> Status | None:
        """The newest status that has arrived, without waiting; then asks for the next one."""
        newest: Status | None = None
        while self._dealer.poll(0, zmq.POLLIN):
            message = self._receive(0)
            if isinstance(message, Status):
                newest = message
        if newest is not None or monotonic() - self._asked_at > ASK_AGAIN_S:
            self._send(StatusRequest())
        return newest

    def close(self) -> None:
        """Disconnect; a request that was not sent yet is dropped."""
        self._dealer.close(linger=0)
        self._context.term()

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, question: Question[Answer]) -> None:
        if self._dealer.poll(0, zmq.POLLOUT):  # else thousands of requests wait already
            self._dealer.send(encode(question), zmq.NOBLOCK)
            self._asked_at = monotonic()

    def _receive(self, timeout_ms: int) -> FromBuffer | None:
        if not self._dealer.poll(timeout_ms, zmq.POLLIN):
            return None
        try:
            return self._decoder.decode(self._dealer.recv(zmq.NOBLOCK))
        except WireError:
            self._num_rejected += 1
            return None


def request_status(address: str, timeout_s: float, *, max_bytes: int = MAX_BYTES, keys: str = "") -> Status:
    """Ask a live buffer for its status. Blocks. Raises: BufferUnreachable, ConfigError."""
    with Observer.open(address, keys, max_bytes=max_bytes) as observer:
        return observer.ask(StatusRequest(), timeout_s)


def request_reset(address: str, timeout_s: float, *, max_bytes: int = MAX_BYTES, keys: str = "") -> ResetNoted | Refused:
    """Ask a live buffer to have the reference reset. Blocks. Raises: BufferUnreachable (noted or not), ConfigError."""
    with Observer.open(address, keys, max_bytes=max_bytes) as observer:
        return observer.ask(RequestReset(), timeout_s)
