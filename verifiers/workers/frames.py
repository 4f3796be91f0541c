"""The frames that a pool and one of its worker processes exchange over a socket pair.

    pool ==Job==> worker ==[Loading, Ready]==[Probed]==[StillRunning...]==Scored==> pool

A frame is a MessagePack payload behind its length, 4 bytes little-endian. Both ends are ours; the texts inside are not.
"""

from __future__ import annotations

import struct

import msgspec

from ..api import Score

LENGTH = struct.Struct("<I")
OUT_OF_MEMORY = "memory"  # as a Scored.error: the worker ends next


class Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Pool -> worker: one completion to judge."""

    number: int
    verifier: str
    completion: str
    answer: str  # JSON object
    thinking_open: bool = False
    cut_off: bool = False
    # probe the stored answer first and report it, so that the pool knows what to blame
    last_try: bool = False
    prompt: str = ""
    prompt_ids: bytes = b""
    completion_ids: bytes = b""


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool: a slow import begins, so the deadline of the job in hand stands still."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool: imports are done. The first one also says that the worker has started."""


class StillRunning(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool: a program is running within limits of its own, so the deadline of the job in hand starts anew."""


class Probed(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool: the stored answer of this job was judged without trouble."""

    number: int


class Raised(msgspec.Struct, frozen=True, kw_only=True):
    """An exception of a verifier that is a fault in it."""

    kind: str  # its class, and the line that raised it
    traceback: str


class Scored(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Worker -> pool: a score, or the verifier's own failure (`score` is None and `error` says why).

    raised: what the verifier raised, also where the completion is blamed for it.
    """

    number: int
    score: Score | None
    seconds: float
    error: str = ""
    raised: Raised | None = None


class Unusable(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool, its last frame: a verifier cannot work on this machine, so no other worker would fare better."""

    reason: str


FromWorker = Loading | Ready | StillRunning | Probed | Scored | Unusable


def to_frame(message: msgspec.Struct) -> bytes:
    """Length and payload."""
    payload = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into payloads."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the payloads that `chunk` completes."""
        self._rest += chunk
        payloads, at = [], 0
        while len(self._rest) - at >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._rest, at)
            if len(self._rest) - at - LENGTH.size < size:
                break
            payloads.append(bytes(self._rest[at + LENGTH.size : at + LENGTH.size + size]))
            at += LENGTH.size + size
        del self._rest[:at]
        return payloads
