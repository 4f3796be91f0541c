"""What a verifier is, and the frames that pool and worker exchange.

    actor --verify--> pool ==Job==> worker: quick -> (load) -> score ==Scored==> pool --> Verdict

A verifier judges a text; it never decides what a failure of its own costs: `pool.py` turns scores, silence and death into
verdicts. Frames are MessagePack behind a 4-byte little-endian length; both ends are ours, the texts inside are not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

LENGTH = struct.Struct("<I")


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What a verifier says about one completion."""

    reward: float
    status: str = "ok"  # "ok", "no_answer", "input_rejected"
    detail: str = ""
    metrics: dict[str, float] = {}


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One completion to judge."""

    completion: str
    answer: dict[str, Any]  # the prompt's answer specification
    thinking_open: bool = False  # the prompt itself ended with <think>: the completion starts inside the thinking
    cut_off: bool = False  # the completion ran out of tokens: what it says last is not what it ends with
    prompt: str = ""  # its text; this and the next two for verifiers of the run's own (foreign.py) alone
    prompt_ids: bytes = b""  # [P] int32
    completion_ids: bytes = b""  # [T] int32; empty where the caller did not give them


class Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Pool -> worker. `last_try`: judge the stored answer alone first, and say so, to learn whom to blame."""

    number: int
    verifier: str
    completion: str
    answer: str  # JSON object
    thinking_open: bool = False
    cut_off: bool = False
    last_try: bool = False
    prompt: str = ""
    prompt_ids: bytes = b""
    completion_ids: bytes = b""


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool: imports something slow now; the deadline of the job in hand stands still."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool: imports are done. The first one also says that the worker lives."""


class Probed(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool: the stored answer of this job alone was judged without trouble."""

    number: int


class Scored(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Worker -> pool: a score, or the verifier's own failure (`score` None, `error` says which)."""

    number: int
    score: Score | None
    seconds: float
    error: str = ""


class Unusable(msgspec.Struct, frozen=True, tag=True):
    """Worker -> pool, its last word: a verifier cannot be imported, or needs a sandbox that this machine does not give. So it
    would be with every worker."""

    reason: str


FromWorker = Loading | Ready | Probed | Scored | Unusable


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A named judge.

    check: raises UserError unless the answer specification can be judged; cheap, no imports of the judge's libraries.
    quick: a verdict in linear time without any slow import, or None when only `score` can tell.
    load:  imports what `score` and `probe` need; never counts against a completion's deadline.
    score: the full judgement; it may hang, crash or eat memory, because it runs in a killable worker.
    probe: judges the stored answer alone; that it returns shows that a failure of `score` is the completion's doing (but for a
           VerifierFailure, which never is).
           None for code that is not ours: whatever goes wrong in it is its own fault, and there is no reward.
    eager: load when the worker starts (a verifier without a quick path).
    in_sandbox: whether judging this answer specification runs what the model wrote, and so needs a sandbox.
    open_sandbox: opens it, once, for the first such answer, if `load` has not; raises UserError.
    """

    check: Callable[[dict[str, Any]], None]
    score: Callable[[Task], Score]
    probe: Callable[[dict[str, Any]], None] | None
    quick: Callable[[Task], Score | None] = lambda task: None
    load: Callable[[], None] = lambda: None
    eager: bool = False
    in_sandbox: Callable[[dict[str, Any]], bool] = lambda answer: False
    open_sandbox: Callable[[], object] = lambda: None


def frame(message: msgspec.Struct) -> bytes:
    """Length and payload."""
    payload = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(payload)) + payload


class Frames:
    """Cuts a byte stream into payloads."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Payloads that `chunk` completes."""
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
