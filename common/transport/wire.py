"""Bytes to typed messages and back: the only place where network bytes are believed, and only after four checks.

    frame = magic "PRL" + schema version (1 byte) | CRC-32 of the payload (4 bytes, little-endian) | MessagePack payload

The order of the checks is size, version, checksum, schema. The payload is decoded straight into the expected types (msgspec):
an untyped decode of 16 MB of empty maps would take 1.1 GB, a typed one is refused at the first byte.
Source: https://jcristharif.com/msgspec/, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from typing import Any, Generic, TypeVar

import msgspec
from isal.isal_zlib import crc32

from ..errors import WireChecksumError, WireSchemaError, WireSizeError, WireVersionError

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
    return b"".join((_PREFIX, _CHECKSUM.pack(crc32(payload)), payload))


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
