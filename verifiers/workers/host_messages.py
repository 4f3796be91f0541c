"""The messages between a pool and a `prolong verifier` on another host, over an encrypted ZeroMQ socket.

Attach --> Attached        then any number of        Judge --> Judged | Declined
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ...common.types import MANY, FinishReason, Number, Prompt, Text, Verdict, Word

VERIFIER_PROTOCOL = 1
MAX_MESSAGE_BYTES = 64 << 20


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    pass


class Attach(_Message, frozen=True):
    """Client -> host: the first message of a connection."""

    protocol: Number


class Judge(_Message, frozen=True):
    """Client -> host: one completion."""

    number: Number  # chosen by the client
    prompt: Prompt
    completion: str
    finish_reason: FinishReason
    completion_ids: bytes = b""


class Attached(_Message, frozen=True):
    """Host -> client: the answer to Attach."""

    protocol: Number
    workers: Number
    verifiers: Annotated[list[Word], MANY]


class Judged(_Message, frozen=True):
    """Host -> client: the verdict on one completion."""

    number: Number
    verdict: Verdict


class Declined(_Message, frozen=True):
    """Host -> client: it will not judge this one."""

    number: Number
    reason: Text


ToHost = Attach | Judge
FromHost = Attached | Judged | Declined
