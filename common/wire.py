"""Bytes to typed messages and back: the only place where network bytes are believed, and only after four checks.

    frame = magic "PRL" + schema version (1 byte) | CRC-32 of the payload (4 bytes, little-endian) | MessagePack payload

The order of the checks is size, version, checksum, schema. The payload is decoded straight into the expected types (msgspec):
an untyped decode of 16 MB of empty maps would take 1.1 GB, a typed one is refused at the first byte.
Source: https://jcristharif.com/msgspec/, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from .errors import WireChecksumError, WireSchemaError, WireSizeError, WireVersionError
from .types import Group, Rollout, float32_array, int32_array

MAGIC = b"PRL"
SCHEMA_VERSION = 1
HEADER_BYTES = 8

_PREFIX = MAGIC + bytes([SCHEMA_VERSION])
_CHECKSUM = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()

M = TypeVar("M")


def encode(message: msgspec.Struct) -> bytes:
    """One frame for `message`."""
    payload = _encoder.encode(message)
    return b"".join((_PREFIX, _CHECKSUM.pack(zlib.crc32(payload)), payload))


class Decoder(Generic[M]):
    """Frames of one direction: `Decoder[FromClient](FromClient, max_bytes)`."""

    def __init__(self, message_types: Any, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._payload = msgspec.msgpack.Decoder(message_types)

    def decode(self, frame: bytes | memoryview) -> M:
        """The message in `frame`.

        Raises: WireSizeError, WireVersionError, WireChecksumError, WireSchemaError, in the order in which they are looked for.
        """
        size = len(frame)
        if not HEADER_BYTES < size <= self._max_bytes:
            raise WireSizeError(f"frame of {size} bytes: expected more than {HEADER_BYTES} and at most {self._max_bytes}")
        view = memoryview(frame)
        if view[:4] != _PREFIX:
            raise WireVersionError(_describe_prefix(bytes(view[:4])))
        payload = view[HEADER_BYTES:]
        (expected,) = _CHECKSUM.unpack(view[4:HEADER_BYTES])
        got = zlib.crc32(payload)
        if got != expected:
            raise WireChecksumError(f"checksum of a frame of {size} bytes: got {got:#010x}, expected {expected:#010x}")
        try:
            return self._payload.decode(payload)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise WireSchemaError(f"frame of {size} bytes does not decode: {error}") from error


def _describe_prefix(prefix: bytes) -> str:
    if prefix[:3] != MAGIC:
        return f"frame starts with {prefix!r}: expected {MAGIC!r}; the sender does not speak prolong's protocol"
    return f"frame of schema version {prefix[3]}: expected {SCHEMA_VERSION}; install the same prolong on every host"


def check_group(group: Group) -> None:
    """Refuse a group whose parts contradict each other: types alone cannot say this.

    Raises: WireSchemaError naming the ticket, the rollout, what it has and what was expected.
    """
    if not group.prompt.token_ids or len(group.prompt.token_ids) % 4:
        got = len(group.prompt.token_ids)
        raise WireSchemaError(f"ticket {group.ordinal}: prompt of {got} bytes, expected a positive multiple of 4 (int32)")
    if not math.isfinite(group.seconds):
        raise WireSchemaError(f"ticket {group.ordinal}: seconds {group.seconds}, expected a finite number")
    for index, rollout in enumerate(group.rollouts):
        fault = _rollout_fault(rollout)
        if fault:
            raise WireSchemaError(f"ticket {group.ordinal}, rollout {index} of {len(group.rollouts)}: {fault}")
    if _numbers_fault(group.rollouts):  # all at once: a call of NumPy costs as much as the rest of a rollout's check
        index, fault = next((i, fault) for i, rollout in enumerate(group.rollouts) if (fault := _numbers_fault([rollout])))
        raise WireSchemaError(f"ticket {group.ordinal}, rollout {index} of {len(group.rollouts)}: {fault}")


def _numbers_fault(rollouts: list[Rollout]) -> str:
    """What is wrong with the token ids and log-probabilities of rollouts whose lengths are right; empty when nothing is."""
    if not rollouts:
        return ""
    if int32_array(b"".join(rollout.token_ids for rollout in rollouts)).min() < 0:
        return "a negative token id, expected 0 or more"
    if not np.isfinite(float32_array(b"".join(rollout.behaviour_logprobs for rollout in rollouts))).all():
        return "a log-probability that is not finite"
    return ""


def _rollout_fault(rollout: Rollout) -> str:
    """What is wrong with a rollout's lengths, spans and reward; empty when nothing is."""
    num_bytes, num_tokens = len(rollout.token_ids), rollout.num_tokens
    if not num_bytes or num_bytes % 4:
        return f"token ids of {num_bytes} bytes, expected a positive multiple of 4 (int32)"
    if len(rollout.behaviour_logprobs) != num_bytes:
        return f"{len(rollout.behaviour_logprobs)} bytes of log-probabilities for {num_tokens} tokens, expected {num_bytes}"
    covered = 0
    for span in rollout.spans:
        if span.start != covered or span.end <= span.start:
            return f"span [{span.start}, {span.end}) after token {covered}, expected spans without gap or overlap"
        covered = span.end
    if covered != num_tokens:
        return f"version spans cover [0, {covered}), expected [0, {num_tokens})"
    reward = rollout.verdict.reward
    if reward is None or not math.isfinite(reward):
        return f"reward {reward}, expected a finite number (rollouts without a verdict stay out of the group)"
    return ""
