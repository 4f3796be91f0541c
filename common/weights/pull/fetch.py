"""What one pull still needs, and the bodies that answer it, piece by piece. No socket, no clock.

    missing chunks --take--> wanted from a stream --Piece, bytes--> Arriving --complete--> store.put_deltas / put_full

Every size is checked before memory is taken for it, and no byte counts before the store has compared its chunk's digest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ...errors import WeightsError
from .catalog import DIGEST_BYTES, Catalog
from .chunks import ChunkLayout
from .protocol import CATALOG, PIECE_BYTES, Piece
from .store import ChunkStore

DELTA_SHARE = 0.125  # of a chunk that its deltas are expected to take, before any came
CATALOG_OVERHEAD = 256  # bytes of a catalog beside its digests


class Malformed(WeightsError):
    """A server sent what it was not asked for, or in a way that the protocol does not allow."""


class Arriving:
    """A body that was asked for."""

    def __init__(self, index: int, have: int, max_bytes: int, expected_bytes: int) -> None:
        """`have`: the version that is held of the chunk; -1: none. `max_bytes`: of the body."""
        self.index, self.have, self.expected_bytes = index, have, expected_bytes
        self.steps: list[tuple[int, int]] | None = None
        self._max_bytes = max_bytes
        self._content: bytes | bytearray = b""
        self._filled = -1  # bytes that came; -1 before the first piece

    def add(self, piece: Piece, data: memoryview) -> bool:
        """Take in a piece; True when the body is complete. Raises Malformed."""
        if self._filled < 0:
            self._begin(piece)
        total = len(self._content)
        expected = min(PIECE_BYTES, total - self._filled)
        if (piece.offset, piece.num_bytes, piece.total, piece.steps) != (self._filled, expected, total, self.steps):
            raise Malformed(f"body {self.index}: got {piece}, expected {expected} bytes from {self._filled} of {total}")
        assert isinstance(self._content, bytearray)
        self._content[self._filled : self._filled + expected] = data
        self._filled += expected
        return self._filled == total

    def _begin(self, piece: Piece) -> None:
        sizes = [size for _, size in piece.steps] if piece.steps is not None else []
        if piece.total > self._max_bytes or (piece.steps is not None and sum(sizes) != piece.total):
            raise Malformed(f"body {self.index} of {piece.total} bytes, of which steps {sum(sizes)}: at most {self._max_bytes}")
        if piece.steps is not None and (self.have < 0 or not sizes):
            raise Malformed(f"body {self.index}: {len(sizes)} deltas for a puller that holds version {self.have}")
        self._content, self._filled, self.steps = bytearray(piece.total), 0, piece.steps

    @property
    def content(self) -> memoryview:
        return memoryview(self._content)

    def deltas(self) -> list[tuple[int, bytes]]:
        """(version after it, payload) of each delta."""
        parts: list[tuple[int, bytes]] = []
        start = 0
        for version, size in self.steps or ():
            parts.append((version, bytes(self.content[start : start + size])))
            start += size
        return parts


class Fetch:
    """The chunks that one pull still needs."""

    def __init__(self, store: ChunkStore, catalog: Catalog, missing: Iterable[int]) -> None:
        self.catalog, self._store = catalog, store
        self._todo = deque(missing)
        self._num_left = len(self._todo)
        self._in_full: set[int] = set()  # their deltas gave something else than the catalog says
        self._delta_bytes = 0.0  # of the deltas of a chunk, lately; 0: not known
        self.num_chunks = self.num_full = self.num_repeated = self.num_bytes = 0

    @property
    def is_complete(self) -> bool:
        return self._num_left == 0

    def take(self, max_bytes: int, max_chunks: int) -> list[Arriving]:
        """Chunks to ask for next, expected to take about `max_bytes` together, and one chunk more."""
        taken: list[Arriving] = []
        while self._todo and max_bytes > 0 and len(taken) < max_chunks:
            arriving = self._arriving(self._todo.popleft())
            taken.append(arriving)
            max_bytes -= arriving.expected_bytes
        return taken

    def give_back(self, indices: Iterable[int]) -> None:
        """These did not come: ask for them first, in their order."""
        self._todo.extendleft(sorted(indices, reverse=True))

    def complete(self, body: Arriving) -> bool:
        """Give a body to the store; False when its bytes are wrong, and the chunk is to be fetched again, in full."""
        self.num_bytes += len(body.content)
        try:
            if body.steps is None:
                good = self._store.put_full(body.index, self.catalog.version, body.content)
            else:
                good = self._store.put_deltas(body.index, body.have, body.deltas())
        except WeightsError:
            # deltas of other versions than were asked for
            good = False
        if not good:
            self.num_repeated += 1
            self._in_full.add(body.index)
            self._todo.appendleft(body.index)
            return False
        self._num_left -= 1
        self.num_chunks += 1
        if body.steps is None:
            self.num_full += 1
        else:
            self._delta_bytes += 0.1 * (len(body.content) - self._delta_bytes) if self._delta_bytes else len(body.content)
        return True

    def _arriving(self, index: int) -> Arriving:
        size = self._store.layout.chunks[index].num_bytes
        held = self._store.held(index)
        useful = held is not None and held.session == self.catalog.session and index not in self._in_full
        if held is None or not useful:
            return Arriving(index, -1, size, size)
        return Arriving(index, held.version, size, min(size, int(self._delta_bytes or size * DELTA_SHARE)))


def arriving_catalog(layout: ChunkLayout) -> Arriving:
    """The catalog of a model of this layout, which was asked for."""
    size = len(layout.chunks) * DIGEST_BYTES + CATALOG_OVERHEAD
    return Arriving(CATALOG, -1, size, size)
