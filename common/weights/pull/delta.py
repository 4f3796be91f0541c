"""Exact deltas: what turns one version of a chunk into the next, as the elements that changed.

    payload = empty                                            nothing changed
            | kind (1 byte) | count (4 bytes) | positions | values

`positions` is a bitmap with one bit per element, or the gaps between changed elements, a byte each. `values` are the changed
elements as they are, so that a payload that is applied twice does no harm.
"""

from __future__ import annotations

import struct

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import WeightsError

BITMAP, GAPS = 1, 2
_HEADER = struct.Struct("<BI")
_FAR = 255  # as a gap: 255 unchanged elements, and no changed one after them
_DTYPES = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


def encode_delta(base: torch.Tensor, target: torch.Tensor, width: int) -> bytes | None:
    """The smallest payload that turns `base` into `target`, [num_bytes] uint8 each; None when the full chunk is no larger."""
    before, after = _elements(base, width), _elements(target, width)
    changed = before != after
    positions = np.flatnonzero(changed)
    if not positions.size:
        return b""
    gaps = _encode_gaps(positions) if positions.size + changed.size // _FAR <= _bitmap_bytes(changed.size) else None
    coded = gaps if gaps is not None and gaps.size < _bitmap_bytes(changed.size) else np.packbits(changed)
    if _HEADER.size + coded.nbytes + positions.size * width >= after.nbytes:
        return None
    header = _HEADER.pack(GAPS if coded is gaps else BITMAP, positions.size)
    return b"".join((header, coded.tobytes(), after[positions].tobytes()))


def apply_delta(chunk: torch.Tensor, payload: bytes | memoryview, width: int) -> None:
    """Turn `chunk`, the version on which the payload is based, into the next one, in place. Idempotent.

    Raises WeightsError, and writes nothing, when the payload is malformed or larger than the chunk.
    """
    if not len(payload):
        return
    elements = _elements(chunk, width)
    if not _HEADER.size < len(payload) < elements.nbytes:
        raise WeightsError(f"delta of {len(payload)} bytes for a chunk of {elements.nbytes}: expected less than the chunk")
    kind, count = _HEADER.unpack_from(payload)
    end = len(payload) - count * width
    if end < _HEADER.size:
        raise WeightsError(f"delta of {len(payload)} bytes: it cannot hold {count} elements of {width} bytes")
    coded = np.frombuffer(payload, np.uint8, end - _HEADER.size, _HEADER.size)
    if kind == BITMAP and coded.size == _bitmap_bytes(elements.size):
        positions = np.flatnonzero(np.unpackbits(coded))
    elif kind == GAPS:
        positions = _decode_gaps(coded)
    else:
        raise WeightsError(f"delta of kind {kind} with {coded.size} bytes of positions for {elements.size} elements")
    if positions.size != count or (count and positions[-1] >= elements.size):
        last = positions[-1] if positions.size else -1
        raise WeightsError(f"delta with {positions.size} positions up to {last}: expected {count} below {elements.size}")
    elements[positions] = np.frombuffer(payload, _DTYPES[width], count, end)


def _elements(chunk: torch.Tensor, width: int) -> NDArray[np.unsignedinteger]:
    return chunk.numpy().view(_DTYPES[width])


def _bitmap_bytes(num_elements: int) -> int:
    return -(-num_elements // 8)


def _encode_gaps(positions: NDArray[np.integer]) -> NDArray[np.uint8]:
    """A byte per gap, with bytes of _FAR before those that do not fit."""
    gaps = np.diff(positions, prepend=-1) - 1
    far, near = np.divmod(gaps, _FAR)
    coded = np.full(gaps.size + int(far.sum()), _FAR, np.uint8)
    coded[np.cumsum(far + 1) - 1] = near
    return coded


def _decode_gaps(coded: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The positions, increasing. Never more of them than bytes, so that hostile bytes take no more memory than honest ones."""
    near = coded != _FAR
    steps = np.cumsum(coded, dtype=np.int64)[near]
    return steps + np.arange(steps.size)
