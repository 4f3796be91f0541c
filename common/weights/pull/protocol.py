"""What pullers and servers of weights say to each other: typed frames. Bytes of weights follow in a second frame.

    puller  CatalogWanted, ChunksWanted, Granted  -->  server
    puller  <--  Pieces + bytes, Later, Gone, Refusal  server

A body (the catalog, a chunk, or the deltas of a chunk) travels in pieces of PIECE_BYTES, in order; small bodies share a
message. A server sends while the bytes that it sent on a connection are fewer than the puller has granted, so that neither end
queues more than the puller's window. Nothing here is trusted: a puller checks every body against the catalog, whose digest came
from the buffer.

Example: a puller that holds version 6 of chunks 0 and 1, and lacks chunk 2.

    CatalogWanted(request=9, version=7, granted=8 << 20)
    ChunksWanted(request=9, version=7, session=..., have=6, indices=[0, 1], granted=8 << 20)
    ChunksWanted(request=9, version=7, session=..., have=-1, indices=[2], granted=8 << 20)
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ...types import Number, Text
from .catalog import SESSION_BYTES

PIECE_BYTES = 1 << 20
# the largest frame that a puller takes: encryption adds some bytes to a piece
MAX_FRAME_BYTES = PIECE_BYTES + 1024
MAX_HEADER_BYTES = 1 << 16  # of the frame that is a message
MAX_WANTED = 1024  # chunks in a request, and chunks that wait at the server for one connection
MAX_PIECES = 256  # in a message
MAX_STEPS = 1024  # deltas in a message
CATALOG = -1  # the index of the catalog, beside those of the chunks

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Index = Annotated[int, msgspec.Meta(ge=CATALOG, le=1 << 31)]
Session = Annotated[bytes, msgspec.Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]


class PullMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True, forbid_unknown_fields=True):
    """One message of a pull. `request` numbers the pulls of a puller: answers to an earlier one are ignored."""

    request: Size


class CatalogWanted(PullMessage, frozen=True):
    """The catalog of a version is wanted."""

    version: Size
    granted: Size  # bytes of bodies that the server may have sent on this connection since it was made


class ChunksWanted(PullMessage, frozen=True):
    """These chunks are wanted in `version` of `session`; the puller holds `have` of each."""

    version: Size
    session: Session
    have: Number  # of the same session; -1: none
    indices: Annotated[list[Index], msgspec.Meta(max_length=MAX_WANTED)]
    granted: Size


class Granted(PullMessage, frozen=True):
    """The server may send more."""

    granted: Size


class Piece(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """A part of a body. Its bytes follow those of the pieces before it in the message's second frame."""

    index: Index
    offset: Size  # in the body
    num_bytes: Size
    total: Size  # of the body
    # (version after it, size) of each delta of which the body is made; None: it is the chunk, or the catalog
    steps: Annotated[list[tuple[Size, Size]], msgspec.Meta(max_length=MAX_STEPS)] | None


class Pieces(PullMessage, frozen=True):
    """Parts of what was wanted."""

    pieces: Annotated[list[Piece], msgspec.Meta(max_length=MAX_PIECES)]


class Later(PullMessage, frozen=True):
    """A sign of life: what is wanted will be sent once it is there, or once it is this puller's turn."""


class Gone(PullMessage, frozen=True):
    """The server no longer has the version that is wanted, and dropped the request; it has `newest`."""

    newest: Number


class Refusal(PullMessage, frozen=True):
    """The server dropped the request."""

    reason: Text


FromPuller = CatalogWanted | ChunksWanted | Granted
FromServer = Pieces | Later | Gone | Refusal
