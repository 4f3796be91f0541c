"""The group log: frames of groups, appended to segments, each written once and where it came from, without a copy of ours.

    frames of a commit --append--> one segment, then fdatasync --> places --> the index is told of them --settle--> they count

What no place points to is free, and may be written again. So a commit that is torn, or whose index failed, leaves nothing to be
cleaned up. A segment that no place points into is spare: it is written again from its beginning, which is several times as fast
as a fresh file, or removed when there are more spares than the log will use.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec
from isal.isal_zlib import crc32

from ...common.errors import JournalError
from .segment_files import NO_ROOM, SegmentStore

log = logging.getLogger(__name__)

# of a segment; a commit lies in one segment, which is larger if the commit is
SEGMENT_BYTES = 64 << 20
# A commit begins at a multiple of it: no page that holds durable frames is ever written again, or has to be read first.
PAGE_BYTES = 4096
MIN_SPARES = 2


class FramePlace(msgspec.Struct, frozen=True, array_like=True):
    """Where a value lies in the log, and the CRC-32 of its bytes."""

    segment: int
    offset: int
    num_bytes: int
    crc: int

    @property
    def end(self) -> int:
        """The offset after it."""
        return self.offset + self.num_bytes


@dataclass(slots=True)
class Segment:
    """What the writer knows of a file."""

    size: int = 0  # of the file
    end: int = 0  # offset of the next commit
    live: int = 0  # bytes of the values that the index points to


class GroupLog:
    """Values in segments. One thread appends and settles; any may read."""

    def __init__(
        self,
        files: SegmentStore,
        *,
        max_bytes: float = float("inf"),
        segment_bytes: int = SEGMENT_BYTES,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        """`max_bytes`: of all files together, above which no spare segment is kept."""
        self._files, self._max_bytes, self._segment_bytes, self._page_bytes = files, max_bytes, segment_bytes, page_bytes
        self._segments: dict[int, Segment] = {}
        self._current = -1  # number of the segment that is appended to

    def restore(self, places: Iterable[FramePlace]) -> None:
        """Learn what the index points to, before the first append and after a commit of the index that failed.

        Raises JournalError when a file is not there, or too short.
        """
        sizes = self._files.sizes()
        segments = {number: Segment(size) for number, size in sizes.items()}
        self._segments, self._current = {}, -1
        for place in places:
            if place.end > sizes.get(place.segment, 0):
                raise JournalError(_missing(place, sizes))
            segment = segments[place.segment]
            segment.end = max(segment.end, self._paged(place.end))
            segment.live += place.num_bytes
        self._segments = segments
        self._current = min((n for n, s in segments.items() if s.live), key=lambda n: segments[n].end, default=-1)

    def append(self, values: Sequence[bytes]) -> list[FramePlace]:
        """Write values, in order; when this returns they are on the disk, but count only once they are settled.

        Raises OSError: then nothing has happened, as far as the index knows.
        """
        if not values:
            return []
        number = self._segment_for(sum(map(len, values)))
        segment = self._segments.get(number, Segment())
        places, offset = [], segment.end
        for value in values:
            places.append(FramePlace(number, offset, len(value), crc32(value)))
            offset += len(value)
        segment.size = self._reserve(number, self._paged(offset))
        self._segments[number] = segment
        self._files.write(number, segment.end, [*values, bytes(self._paged(offset) - offset)])
        self._files.sync(number)
        self._current = number
        return places

    def settle(self, added: Collection[FramePlace], dropped: Collection[FramePlace]) -> None:
        """The index points to the places `added` now, durably, and no longer to those `dropped`."""
        for place in added:
            segment = self._segments[place.segment]
            segment.end = max(segment.end, self._paged(place.end))
            segment.live += place.num_bytes
        for place in dropped:
            segment = self._segments[place.segment]
            segment.live -= place.num_bytes
            assert segment.live >= 0, "a place was dropped twice"
            if segment.live == 0:
                segment.end = 0
        if dropped:
            self._remove_spares()

    def read(self, place: FramePlace) -> bytes | None:
        """The value at a place; None when other bytes are there now. Raises OSError."""
        found = self._files.read(place.segment, place.offset, place.num_bytes)
        return found if len(found) == place.num_bytes and crc32(found) == place.crc else None

    def file_bytes(self) -> int:
        """The size of all files."""
        return sum(self._files.sizes().values())

    def defects(self, places: Iterable[FramePlace]) -> list[str]:
        """What is wrong with the places of an index: files that are too short, values that overlap."""
        found: list[str] = []
        in_order = sorted(places, key=lambda place: (place.segment, place.offset))
        # after the places: of a live run files grow before a place points there
        sizes, ends = self._files.sizes(), dict[int, int]()
        for place in in_order:
            if place.end > sizes.get(place.segment, 0):
                found.append(_missing(place, sizes))
            if place.offset < ends.get(place.segment, 0):
                found.append(f"two groups lie at {place.offset} in segment {place.segment} of the log")
            ends[place.segment] = max(place.end, ends.get(place.segment, 0))
        return found

    def close(self) -> None:
        """Give back the space that holds nothing, and release the files."""
        for number, segment in self._segments.items():
            if segment.live == 0:
                self._files.remove(number)
            elif segment.size > segment.end:
                self._files.truncate(number, segment.end)
        self._files.close()

    # --- segments -----------------------------------------------------------------------------------------------------

    def _paged(self, offset: int) -> int:
        return -(-offset // self._page_bytes) * self._page_bytes

    def _segment_for(self, num_bytes: int) -> int:
        """The number of the segment for a commit of this size."""
        current = self._segments.get(self._current)
        if current is not None and (current.end == 0 or current.end + num_bytes <= self._segment_bytes):
            return self._current
        spares = self._spares()
        if spares:
            return max(spares, key=lambda number: self._segments[number].size)
        return next(number for number in range(len(self._segments) + 1) if number not in self._segments)

    def _spares(self) -> list[int]:
        return [number for number, segment in self._segments.items() if segment.live == 0]

    def _remove_spares(self) -> None:
        """Keep as many spare segments as are in use: then a run whose groups come and go writes no fresh file."""
        spares = sorted(number for number in self._spares() if number != self._current)
        num_kept = max(MIN_SPARES, sum(segment.live > 0 for segment in self._segments.values()))
        num_bytes = sum(segment.size for segment in self._segments.values())
        while spares and (len(spares) > num_kept or num_bytes > self._max_bytes):
            number = spares.pop()
            num_bytes -= self._segments[number].size
            self._remove(number)

    def _remove(self, number: int) -> None:
        try:
            self._files.remove(number)
        except OSError as error:
            # it stays a spare, and is written again or removed later
            log.warning("cannot remove segment %d of the journal: %s", number, error)
        else:
            del self._segments[number]

    def _reserve(self, number: int, end: int) -> int:
        """Make room; on a full disk with what the spare segments hold."""
        try:
            return self._files.reserve(number, end)
        except OSError as error:
            spares = [spare for spare in self._spares() if spare != number]
            if error.errno not in NO_ROOM or not spares:
                raise
            for spare in spares:
                self._remove(spare)
        return self._files.reserve(number, end)


def _missing(place: FramePlace, sizes: dict[int, int]) -> str:
    return (
        f"segment {place.segment} of the log has {sizes.get(place.segment, 0)} bytes, a group ends at {place.end}: the file "
        "was lost or cut, or the folder was copied without it (its files belong together)"
    )
