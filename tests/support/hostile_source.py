"""Sources of weights that lie, flood or stay silent, for tests of pullers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import zmq
from prolong.common.transport.sockets import bind_router, endpoint_of
from prolong.common.transport.wire import Decoder, encode
from prolong.common.types import WeightSource
from prolong.common.weights.pull.protocol import FromPuller, Piece, Pieces, PullMessage
from prolong.common.weights.pull.store import Answer, ChunkStore, Deltas, Full

Say = Callable[..., None]  # frames to the puller that asked
Behaviour = Callable[[FromPuller, Say], None]


class HostileSource:
    """A socket that pullers take for a server. `behave` is called for each request, and says what it likes."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self._context = zmq.Context()
        self._router = bind_router(self._context, "tcp://127.0.0.1:0", 1 << 20)
        self.source = WeightSource(endpoint=endpoint_of(self._router))
        self.num_asked = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        decoder = Decoder[FromPuller](FromPuller, 1 << 20)
        while not self._over.is_set():
            if not self._router.poll(20):
                continue
            sender, frame = self._router.recv_multipart()
            self.num_asked += 1

            def say(*frames: bytes, sender: bytes = sender) -> None:
                try:
                    self._router.send_multipart((sender, *frames), zmq.NOBLOCK)
                except zmq.ZMQError:
                    return  # it had enough

            self._behave(decoder.decode(frame), say)

    def __enter__(self) -> HostileSource:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(5.0)
        self._router.close(linger=0)
        self._context.term()


def pieces(asked: PullMessage, *parts: tuple[Piece, bytes]) -> tuple[bytes, bytes]:
    """The frames of a message with these pieces."""
    message = Pieces(request=asked.request, pieces=[piece for piece, _ in parts])
    return encode(message), b"".join(part for _, part in parts)


class LyingStore:
    """A store whose answers are changed on their way, as long as `num_lies` lasts."""

    def __init__(self, store: ChunkStore, num_lies: int) -> None:
        self._store, self.num_lies = store, num_lies

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def answer(self, index: int, session: bytes, have: int | None, target: int) -> Answer:
        answer = self._store.answer(index, session, have, target)
        if self.num_lies <= 0:
            return answer
        match answer:
            case Full(content):
                self.num_lies -= 1
                return Full(bytes([content[0] ^ 1]) + bytes(content[1:]))
            case Deltas(steps):
                changed = [(version, payload[:-1] + b"\x55" if payload else payload) for version, payload in steps]
                self.num_lies -= changed != steps
                return Deltas(changed)
        return answer


def lying(store: ChunkStore, num_lies: int) -> ChunkStore:
    """A LyingStore, where a store is expected."""
    return cast(ChunkStore, LyingStore(store, num_lies))
