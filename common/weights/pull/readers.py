"""What a server owes to each connection that pulls from it, and how that becomes messages. No socket, no clock.

ChunksWanted --> Reader.wants --store.answer--> Body --pieces--> message
                    |    ^
                  NotYet |  the store made progress
                    v    |
                 Reader.parked
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ...errors import WeightsError
from ...transport.wire import encode
from .protocol import CATALOG, MAX_PIECES, MAX_STEPS, PIECE_BYTES, CatalogWanted, ChunksWanted, Gone, Piece, Pieces, Refusal
from .store import ChunkStore, Deltas, Full, NotYet, Superseded

MAX_READERS = 256
NO_SESSION = b""  # of a catalog that is wanted: its session is not known yet


class Want(NamedTuple):
    """A body that a puller waits for."""

    chunk: int  # its index, or CATALOG
    session: bytes
    have: int  # version that the puller holds; -1: none
    version: int


class Body:
    """The bytes that answer one Want, and how many of them were sent."""

    def __init__(self, index: int, content: memoryview, steps: list[tuple[int, int]] | None) -> None:
        self.index, self.steps = index, steps
        self._content, self._offset = content, 0

    @property
    def next_bytes(self) -> int:
        """Of the next piece."""
        return min(PIECE_BYTES, len(self._content) - self._offset)

    @property
    def is_sent(self) -> bool:
        return self._offset == len(self._content)

    def cut(self) -> tuple[Piece, memoryview]:
        """The next piece and its bytes."""
        start, size = self._offset, self.next_bytes
        self._offset += size
        piece = Piece(index=self.index, offset=start, num_bytes=size, total=len(self._content), steps=self.steps)
        return piece, self._content[start : start + size]


class Bundle(NamedTuple):
    """What goes to one reader next."""

    frames: tuple[bytes | memoryview, ...]
    num_bytes: int  # of bodies
    num_bodies: int  # that end with it
    refuses: bool = False  # it drops what the puller wanted


class Reader:
    """One connection of a puller."""

    def __init__(self, routing_id: bytes, now: float) -> None:
        self.routing_id = routing_id
        self.wants: deque[Want] = deque()
        self.parked: dict[Want, None] = {}  # in the order in which they are to be asked for again
        self.unsent: Bundle | None = None  # the socket had no room for it
        self.sent = self.granted = 0  # bytes of bodies
        self.heard_at = self.sent_at = now
        self.progressed_at = now  # a request came or bytes went out
        self.blocked_until = 0.0
        self.request = -1
        self._body: Body | None = None

    @property
    def is_pending(self) -> bool:
        """Whether the puller waits for anything."""
        return bool(self.wants or self.parked or self._body or self.unsent)

    @property
    def num_wanted(self) -> int:
        return len(self.wants) + len(self.parked)

    def is_ready(self, now: float) -> bool:
        """Whether something may be sent now."""
        if now < self.blocked_until:
            return False
        return self.unsent is not None or (bool(self.wants or self._body) and self.sent < self.granted)

    def want(self, message: CatalogWanted | ChunksWanted) -> int:
        """Add what is wanted; returns how many wants of an earlier request it replaces."""
        num_dropped = 0
        if message.request != self.request:
            num_dropped = self.drop_wants()
            self.request = message.request
        if isinstance(message, CatalogWanted):
            self.wants.append(Want(CATALOG, NO_SESSION, -1, message.version))
        else:
            wants = (Want(index, message.session, message.have, message.version) for index in message.indices)
            self.wants.extend(wants)
        return num_dropped

    def drop_wants(self) -> int:
        """Forget what was wanted; returns how much that was."""
        num_dropped = self.num_wanted + (self._body is not None)
        self.wants.clear()
        self.parked.clear()
        self._body = None
        return num_dropped

    def unpark(self, wants: list[Want]) -> None:
        """Ask the store again for these."""
        for want in wants:
            if want in self.parked:
                del self.parked[want]
                self.wants.append(want)

    def compose(self, store: ChunkStore | None) -> Bundle | None:
        """The next message, of what the store has now; None when all that is wanted is parked."""
        pieces: list[Piece] = []
        parts: list[memoryview] = []
        room, num_steps, num_bodies = PIECE_BYTES, 0, 0
        while len(pieces) < MAX_PIECES and (self._body is not None or self.wants):
            if self._body is None:
                answer = self._ask(store, self.wants.popleft())
                if isinstance(answer, Gone | Refusal):
                    self.drop_wants()
                    return Bundle((encode(answer),), 0, 0, refuses=True)
                self._body = answer
                continue
            num_steps += len(self._body.steps or ())
            if pieces and (self._body.next_bytes > room or num_steps > MAX_STEPS):
                break
            piece, part = self._body.cut()
            pieces.append(piece)
            parts.append(part)
            room -= piece.num_bytes
            if self._body.is_sent:
                self._body = None
                num_bodies += 1
        if not pieces:
            return None
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        return Bundle((encode(Pieces(request=self.request, pieces=pieces)), payload), PIECE_BYTES - room, num_bodies)

    def _ask(self, store: ChunkStore | None, want: Want) -> Body | Gone | Refusal | None:
        """What the store gives for `want`; None: nothing yet, and it is parked."""
        answer = NotYet() if store is None else _answer(store, want)
        match answer:
            case NotYet():
                self.parked[want] = None
                return None
            case Superseded():
                return Gone(request=self.request, newest=answer.newest)
            case Full():
                return Body(want.chunk, memoryview(answer.content), None)
            case Deltas():
                steps = [(version, len(payload)) for version, payload in answer.steps]
                if len(steps) > MAX_STEPS:
                    return Refusal(request=self.request, reason=f"{len(steps)} deltas lead to chunk {want.chunk}")
                return Body(want.chunk, memoryview(b"".join(payload for _, payload in answer.steps)), steps)
            case str():
                return Refusal(request=self.request, reason=answer)


def may_have(store: ChunkStore, want: Want) -> bool:
    """Whether the store is worth asking again for what it did not have."""
    if want.chunk == CATALOG:
        return store.catalog(want.version) is not None
    return want.chunk >= len(store.layout.chunks) or store.held(want.chunk) == (want.session, want.version)


def _answer(store: ChunkStore, want: Want) -> Deltas | Full | NotYet | Superseded | str:
    """What the store says; a text when it can never have such a chunk."""
    if want.chunk == CATALOG:
        catalog = store.catalog(want.version)
        if catalog is not None:
            return Full(catalog)
        return Superseded(store.version) if want.version < store.version else NotYet()
    if want.chunk >= len(store.layout.chunks):
        return f"chunk {want.chunk} of {len(store.layout.chunks)}"
    try:
        return store.answer(want.chunk, want.session, want.have if want.have >= 0 else None, want.version)
    except WeightsError as error:
        return f"chunk {want.chunk} cannot be given: {error}"
