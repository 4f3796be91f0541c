"""Frames: bytes from messages, and messages from bytes that have passed four checks. No other module decodes network bytes.

    frame = magic "PRL" + schema version (1 byte) | CRC-32 of the payload (4 bytes, little-endian) | MessagePack payload

The checks, in order: size, version, checksum, schema. msgspec decodes the payload straight into the expected types: an untyped
decode of 16 MB of empty maps would take 1.1 GB, a typed one is refused at the first byte.
Source: https://jcristharif.com/msgspec/, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from types import UnionType
from typing import Generic, TypeVar

import msgspec
from isal.isal_zlib import crc32

from ..errors import WireChecksumError, WireSchemaError, WireSizeError, WireVersionError

MAGIC = b"PRL"
SCHEMA_VERSION = 1  # of the frame; the messages have a version of their own: messages.PROTOCOL_VERSION
HEADER_BYTES = 8

_PREFIX = MAGIC + bytes([SCHEMA_VERSION])
_CHECKSUM = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()

M = TypeVar("M")


def encode(message: msgspec.Struct) -> bytes:
    """The frame of a message."""
    payload = _encoder.encode(message)
    return b"".join((_PREFIX, _CHECKSUM.pack(crc32(payload)), payload))


class Decoder(Generic[M]):
    """Decodes frames of one direction.

    Example: Decoder[FromClient](FromClient, max_bytes).decode(frame)
    """

    def __init__(self, kind: type[M] | UnionType, max_bytes: int) -> None:
        """`kind`: a message class or a union of them. `max_bytes`: of a frame."""
        self._max_bytes = max_bytes
        self._payload = msgspec.msgpack.Decoder(kind)

    def decode(self, frame: bytes | memoryview) -> M:
        """The message in `frame`.

        Raises: WireSizeError, WireVersionError, WireChecksumError, WireSchemaError, in the order of the checks.
        """
        size = len(frame)
        if not HEADER_BYTES < size <= self._max_bytes:
            raise WireSizeError(f"frame of {size} bytes: expected more than {HEADER_BYTES} and at most {self._max_bytes}")
        view = memoryview(frame)
        if view[:4] != _PREFIX:
            raise WireVersionError(_describe_prefix(bytes(view[:4])))
        payload = view[HEADER_BYTES:]
        (expected,) = _CHECKSUM.unpack(view[4:HEADER_BYTES])
        got = crc32(payload)
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
