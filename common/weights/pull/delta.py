"""Exact deltas: what turns one version of a chunk into the next, as the differences of its elements read as integers.

    payload = empty                                   nothing changed
            | count (4 bytes) | positions | planes    `count` elements changed; with count 0, all may have

`positions` has a byte for each changed element, the number of unchanged ones before it; where that would take more than a
bitmap, it is a bitmap, and with count 0 it is left out. A difference is taken modulo 2^(8 width), folded so that small ones of
either sign are small numbers (0, -1, 1, -2 -> 0, 1, 2, 3), and split into planes: the lowest bytes of all elements, then the
next, up to `width` planes. At the learning rates of RL an element moves by few steps of its dtype, so that the higher planes
are nearly empty. Each part is deflated where that makes it smaller.
"""

from __future__ import annotations

import struct

import numpy as np
import torch
from isal import igzip_lib
from numpy.typing import NDArray

from ...errors import WeightsError

ZERO, RAW, DEFLATED = 0, 1, 2  # how a part is stored
_COUNT = struct.Struct("<I")
_PART = struct.Struct("<BI")  # how, and its bytes
_FAR = 255  # as a gap: 255 unchanged elements, and no changed one after them
_LEVEL = 1  # of igzip: 1 GB/s; level 0 is no faster and compresses worse, levels 2 and 3 are no better
_SAMPLE = 1 << 14  # bytes that say whether a part can be deflated
_WORTH = 0.98  # what is left of a sample that can
_DTYPES = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}

Integers = NDArray[np.unsignedinteger]


def encode_delta(base: torch.Tensor, target: torch.Tensor, width: int) -> bytes | None:
    """The payload that turns `base` into `target`, [num_bytes] uint8 each; None when the full chunk is no larger."""
    before, after = _elements(base, width), _elements(target, width)
    changed = before != after
    count = int(np.count_nonzero(changed))
    if not count:
        return b""
    if 8 * count > 7 * changed.size:
        parts = [_COUNT.pack(0), *_encode_planes(after - before)]
    else:
        positions = np.flatnonzero(changed)
        planes = _encode_planes(after[positions] - before[positions])
        where = np.packbits(changed) if _is_bitmap(count, changed.size) else _encode_gaps(positions)
        parts = [_COUNT.pack(count), _encode_part(where), *planes]
    payload = b"".join(parts)
    return payload if len(payload) < after.nbytes else None


def apply_delta(chunk: torch.Tensor, payload: bytes | memoryview, width: int, *, undo: bool = False) -> None:
    """Turn `chunk`, the version on which the payload is based, into the next one, in place. `undo`: the other way.

    Raises WeightsError, and writes nothing, when the payload is malformed or larger than the chunk.
    """
    if not len(payload):
        return
    elements = _elements(chunk, width)
    if not _COUNT.size < len(payload) < elements.nbytes:
        raise WeightsError(f"delta of {len(payload)} bytes for a chunk of {elements.nbytes}: expected less than the chunk")
    (count,) = _COUNT.unpack_from(payload)
    if count > elements.size:
        raise WeightsError(f"delta of {count} elements: the chunk has {elements.size}")
    at, positions = _COUNT.size, None
    if count:
        where, at = _decode_part(payload, at, count + elements.size // _FAR)
        positions = _decode_positions(where, count, elements.size)
    differences, at = _decode_planes(payload, at, count or elements.size, width)
    if at != len(payload):
        raise WeightsError(f"delta of {len(payload)} bytes: its parts end at {at}")
    if undo:
        differences = 0 - differences
    if positions is None:
        np.add(elements, differences, out=elements)
    else:
        elements[positions] += differences


def _elements(chunk: torch.Tensor, width: int) -> Integers:
    return chunk.numpy().view(_DTYPES[width])


def _encode_gaps(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A byte per gap, with bytes of _FAR before those that do not fit."""
    gaps = np.diff(positions, prepend=-1) - 1
    wide = np.flatnonzero(gaps >= _FAR)
    if not wide.size:
        return gaps.astype(np.uint8)
    far = gaps[wide] // _FAR
    gaps[wide] -= far * _FAR
    return np.insert(gaps.astype(np.uint8), np.repeat(wide, far), _FAR)


def _is_bitmap(count: int, num_elements: int) -> bool:
    return 8 * count > num_elements


def _decode_positions(where: NDArray[np.uint8], count: int, num_elements: int) -> NDArray[np.int64]:
    """The positions, increasing and below `num_elements`."""
    if _is_bitmap(count, num_elements):
        positions = np.flatnonzero(np.unpackbits(where[: -(-num_elements // 8)], count=num_elements))
    else:
        positions = np.cumsum(where, dtype=np.int64)[where != _FAR]
        positions += np.arange(positions.size)
    if positions.size != count or positions[-1] >= num_elements:
        last = positions[-1] if positions.size else -1
        raise WeightsError(f"delta with {positions.size} positions up to {last}: expected {count} below {num_elements}")
    return positions


def _encode_planes(differences: Integers) -> list[bytes]:
    bits = 8 * differences.itemsize
    sign = differences >> (bits - 1)
    folded = np.bitwise_xor(differences << 1, np.negative(sign))
    columns = folded.view(np.uint8).reshape(-1, differences.itemsize)
    return [_encode_part(np.ascontiguousarray(columns[:, plane])) for plane in range(differences.itemsize)]


def _decode_planes(payload: bytes | memoryview, at: int, count: int, width: int) -> tuple[Integers, int]:
    """The differences, and where the planes end in the payload."""
    columns = np.empty((count, width), np.uint8)
    for plane in range(width):
        part, at = _decode_part(payload, at, count)
        if part.size != count:
            raise WeightsError(f"delta with a plane of {part.size} bytes for {count} elements")
        columns[:, plane] = part
    folded = columns.view(_DTYPES[width]).reshape(-1)
    return np.bitwise_xor(folded >> 1, np.negative(folded & 1)), at


def _encode_part(part: NDArray[np.uint8]) -> bytes:
    if not part.any():
        return _PART.pack(ZERO, part.size)
    middle = part[part.size // 2 :][:_SAMPLE]
    if len(igzip_lib.compress(middle.data, _LEVEL)) < _WORTH * middle.size:
        deflated = igzip_lib.compress(part.data, _LEVEL)
        if len(deflated) < part.size:
            return _PART.pack(DEFLATED, len(deflated)) + deflated
    return _PART.pack(RAW, part.size) + part.tobytes()


def _decode_part(payload: bytes | memoryview, at: int, max_bytes: int) -> tuple[NDArray[np.uint8], int]:
    """The part at `at`, at most `max_bytes` whatever the payload says, and where it ends."""
    if at + _PART.size > len(payload):
        raise WeightsError(f"delta of {len(payload)} bytes: a part is missing")
    how, size = _PART.unpack_from(payload, at)
    start = at + _PART.size
    if how == ZERO and size <= max_bytes:
        return np.zeros(size, np.uint8), start
    if size > len(payload) - start or how not in (RAW, DEFLATED) or (how == RAW and size > max_bytes):
        raise WeightsError(f"delta of {len(payload)} bytes with a part of kind {how} and {size} bytes at {at}")
    stored = memoryview(payload)[start : start + size]
    if how == DEFLATED:
        stored = _inflate(stored, max_bytes)
    return np.frombuffer(stored, np.uint8), start + size


def _inflate(deflated: memoryview, max_bytes: int) -> bytes:
    decompressor = igzip_lib.IgzipDecompressor()
    try:
        # one more than it may be: with its end in sight, a decompressor that has no room left does not say that it is done
        part = decompressor.decompress(deflated, max_bytes + 1)
    except igzip_lib.IsalError as error:  # pyright: ignore[reportGeneralTypeIssues]
        raise WeightsError(f"delta with a part of {len(deflated)} bytes that does not inflate: {error}") from error
    if not decompressor.eof or decompressor.unused_data or len(part) > max_bytes:
        raise WeightsError(f"delta with a part of {len(deflated)} bytes that does not end at {max_bytes} bytes or before")
    return part
