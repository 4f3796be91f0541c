"""The sizes of other codings of a chunk's delta than ours, for the table of docs/decisions/029-coding-of-deltas.md.

They are computed, not made: no coding here can be decoded. A part that would be larger deflated is counted as it is.
"""

from __future__ import annotations

import numpy as np
from isal import igzip_lib
from numpy.typing import NDArray

from ..common.weights.pull.delta import encode_delta
from ..common.weights.pull.store import ChunkStore

Words = NDArray[np.unsignedinteger]
FAR = 255


def coding_sizes(base: ChunkStore, target: ChunkStore, every: int) -> dict[str, int]:
    """Bytes of one update by coding, over one chunk in `every`; "full" is what a copy of those chunks takes."""
    totals: dict[str, int] = {}
    for index in range(0, len(base.layout.chunks), every):
        width = base.layout.chunks[index].width
        views = [store.layout.view(store.buckets, index) for store in (base, target)]
        payload = encode_delta(views[0], views[1], width)
        before, after = (view.numpy().view(f"<u{width}") for view in views)
        sizes = other_sizes(before, after)
        sizes["ours"] = after.nbytes if payload is None else len(payload)
        for name, size in sizes.items():
            totals[name] = totals.get(name, 0) + min(size, after.nbytes)
    return totals


def other_sizes(before: Words, after: Words) -> dict[str, int]:
    """Bytes of the delta of one chunk, by coding."""
    changed = before != after
    positions = np.flatnonzero(changed)
    gaps, bitmap = gap_bytes(positions), np.packbits(changed)
    raw, raw_planes = after[positions].nbytes, planes_of(after[positions])
    folded = planes_of(fold(after[positions] - before[positions]))
    return {
        "full": after.nbytes,
        "full, deflated": sum(map(deflated, planes_of(after))),
        "gaps, values": gaps.size + raw,
        "bitmap, values": bitmap.size + raw,
        "gaps, values, deflated": deflated(gaps) + sum(map(deflated, raw_planes)),
        "changed bytes of each plane": sum(map(changed_bytes, planes_of(before), planes_of(after))),
        "gaps, differences": gaps.size + sum(plane.size for plane in folded if plane.any()),
        "bitmap, differences, deflated": deflated(bitmap) + sum(map(deflated, folded)),
        "all differences, deflated": sum(map(deflated, planes_of(fold(after - before)))),
    }


def gap_bytes(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """One byte for each position; FAR as often as a gap is larger than that before it."""
    gaps = np.diff(positions, prepend=-1) - 1
    far, near = np.divmod(gaps, FAR)
    coded = np.full(gaps.size + int(far.sum()), FAR, np.uint8)
    coded[np.cumsum(far + 1) - 1] = near
    return coded


def planes_of(words: Words) -> list[NDArray[np.uint8]]:
    """The lowest bytes of all words, then the next."""
    columns = words.view(np.uint8).reshape(-1, words.itemsize)
    return [np.ascontiguousarray(columns[:, plane]) for plane in range(words.itemsize)]


def fold(differences: Words) -> Words:
    """0, -1, 1, -2 -> 0, 1, 2, 3."""
    return np.bitwise_xor(differences << 1, np.negative(differences >> (8 * differences.itemsize - 1)))


def deflated(part: NDArray[np.uint8]) -> int:
    return min(part.size, len(igzip_lib.compress(part.data, 1))) if part.size else 0


def changed_bytes(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> int:
    """Overwriting the bytes of one plane that changed: by gaps, by a bitmap, or all of them."""
    positions = np.flatnonzero(before != after)
    return min(gap_bytes(positions).size + positions.size, -(-after.size // 8) + positions.size, after.size)
