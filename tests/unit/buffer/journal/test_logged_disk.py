"""The disk of a journal with real files: LMDB beside the group log."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.buffer.journal import records as r
from prolong.buffer.journal import segment_files
from prolong.buffer.journal.group_log import PAGE_BYTES, GroupLog
from prolong.buffer.journal.lmdb_index import LmdbIndex
from prolong.buffer.journal.logged_disk import LoggedDisk
from prolong.buffer.journal.segment_files import GROW_BYTES, MAX_PARTS, SegmentFiles
from prolong.common.errors import JournalError, JournalFull

SEGMENT = 8 * PAGE_BYTES


def open_disk(folder: Path, *, max_bytes: float = float("inf")) -> LoggedDisk:
    """In small segments."""
    log = GroupLog(SegmentFiles(folder), max_bytes=max_bytes, segment_bytes=SEGMENT)
    return LoggedDisk(LmdbIndex(folder, 0.01, readonly=False), log, where="the journal")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoggedDisk]:
    opened = open_disk(tmp_path)
    yield opened
    opened.close()


def group(ordinal: int) -> bytes:
    return r.key(r.GROUP, ordinal)


def segments(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.glob("frames-*.bin"))}


def test_the_frames_of_a_commit_lie_in_the_log_one_after_the_other_and_the_index_has_their_places(
    disk: LoggedDisk, tmp_path: Path
) -> None:
    frames = [bytes([65 + i]) * (1000 + i) for i in range(5)]
    disk.commit({group(i): memoryview(frame) for i, frame in enumerate(frames)} | {b"n": b"small"}, [])  # pyright: ignore[reportArgumentType]
    assert (tmp_path / "frames-0.bin").read_bytes().startswith(b"".join(frames))
    assert [disk.get(group(i)) for i in range(5)] == frames
    assert disk.get(b"n") == b"small"
    assert disk.num_bytes == sum(map(len, frames)) + PAGE_BYTES, "groups by their bytes, a small record as a page"
    disk.commit({group(9): b"next"}, [])
    assert (tmp_path / "frames-0.bin").read_bytes()[2 * PAGE_BYTES :].startswith(b"next"), "a commit begins with a page"


def test_a_commit_of_more_parts_than_one_call_takes_is_written_whole(tmp_path: Path) -> None:
    files, parts = SegmentFiles(tmp_path), [bytes([i % 251]) * 3 for i in range(2 * MAX_PARTS + 5)]
    files.reserve(0, 7 + 3 * len(parts))
    files.write(0, 7, [*parts, b""])
    assert files.read(0, 7, 3 * len(parts)) == b"".join(parts)
    files.close()


def test_a_write_that_the_system_cuts_short_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev_well = os.pwritev

    def pwritev(descriptor: int, parts: list[memoryview], offset: int) -> int:
        return pwritev_well(descriptor, [b"".join(parts)[:5]], offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    files = SegmentFiles(tmp_path)
    files.reserve(0, 100)
    files.write(0, 3, [b"abc", b"defghij", b"", b"klmnopq"])
    assert files.read(0, 3, 17) == b"abcdefghijklmnopq"
    files.close()


def test_space_is_taken_in_advance_and_given_back_at_the_end(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    disk.commit({group(0): b"x" * 5000}, [])
    assert segments(tmp_path) == {"frames-0.bin": GROW_BYTES}
    disk.close()
    assert segments(tmp_path) == {"frames-0.bin": 2 * PAGE_BYTES}
    disk = open_disk(tmp_path)
    disk.commit({group(1): b"y" * 100}, [])
    assert (tmp_path / "frames-0.bin").read_bytes()[2 * PAGE_BYTES :].startswith(b"yyy"), "it goes on where the last one ended"
    disk.commit({}, [group(0), group(1)])
    disk.close()
    assert segments(tmp_path) == {}


def test_a_segment_that_no_group_is_in_is_written_again(disk: LoggedDisk, tmp_path: Path) -> None:
    for i in range(40):
        disk.commit({group(i): bytes([i]) * SEGMENT}, [group(i - 1)] if i else [])
    assert set(segments(tmp_path)) <= {"frames-0.bin", "frames-1.bin"}
    assert disk.get(group(39)) == bytes([39]) * SEGMENT


def test_no_more_spare_segments_are_kept_than_are_in_use_and_none_above_the_limit(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    for i in range(10):
        disk.commit({group(i): bytes(SEGMENT)}, [])
    disk.commit({}, [group(i) for i in range(2, 10)])
    assert len(segments(tmp_path)) == 5, "two in use, two spares, and the one that is appended to"
    disk.close()
    disk = open_disk(tmp_path, max_bytes=GROW_BYTES)
    disk.commit({group(20): bytes(SEGMENT)}, [group(0)])
    assert len(segments(tmp_path)) == 2
    disk.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_takes_the_spare_segments_back_first(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_files, "GROW_BYTES", PAGE_BYTES)
    disk, fallocate_well = open_disk(tmp_path), os.posix_fallocate
    for i in range(4):
        disk.commit({group(i): bytes(SEGMENT)}, [])
    disk.commit({}, [group(1), group(2)])

    def fallocate(descriptor: int, offset: int, length: int) -> None:
        if sum(segments(tmp_path).values()) + length > 5 * SEGMENT:
            raise OSError(code, os.strerror(code))
        fallocate_well(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    disk.commit({group(9): b"x" * 3 * SEGMENT}, [])
    assert segments(tmp_path) == {"frames-0.bin": SEGMENT, "frames-1.bin": 3 * SEGMENT, "frames-3.bin": SEGMENT}
    with pytest.raises(JournalFull, match=re.escape(os.strerror(code))):
        disk.commit({group(10): bytes(SEGMENT)}, [])
    disk.commit({}, [group(0)])
    disk.commit({group(10): bytes(SEGMENT)}, [])
    assert disk.get(group(9)) == b"x" * 3 * SEGMENT
    disk.close()


def test_what_cannot_be_read_is_an_error_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = open_disk(tmp_path)
    disk.commit({group(0): b"x" * 100}, [])

    def pread(descriptor: int, num_bytes: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "a bad sector")

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(JournalError, match=r"cannot read segment 0: .*a bad sector"):
        disk.get(group(0))
    disk._index.close()
    with pytest.raises(JournalError, match="cannot read the journal"):
        disk.keys(b"")
    disk.close()


def test_a_reader_of_a_live_journal_finds_that_a_group_is_gone_and_not_another_one_in_its_place(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    disk.commit({group(0): b"a" * 100}, [])
    find_well = disk._index.find
    seen: list[int] = []

    def find(keys: list[bytes]) -> dict[bytes, bytes]:
        """As of the first time, then as it is: the buffer went on between the two."""
        found = find_well(keys)
        seen.append(0)
        if len(seen) == 1:
            disk._index.find = find_well  # type: ignore[method-assign]
            disk.commit({}, [group(0)])
            disk.commit({group(1): b"b" * 100}, [])
        return found

    disk._index.find = find  # type: ignore[assignment, method-assign]
    assert disk.get(group(0)) is None
    assert disk.get(group(1)) == b"b" * 100
    disk.close()


def test_bytes_that_changed_are_named_and_so_is_a_folder_that_was_copied_in_part(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    disk = LoggedDisk.open(folder)
    disk.commit({group(0): b"x" * 100, group(1): b"y" * 100}, [])
    disk.close()
    shutil.copytree(folder, tmp_path / "copy")
    copied = LoggedDisk.open(tmp_path / "copy", readonly=True)
    assert (copied.get(group(1)), copied.defects()) == (b"y" * 100, [])
    copied.close()
    with (folder / "frames-0.bin").open("r+b") as file:
        file.seek(150)
        file.write(b"z")
    disk = LoggedDisk.open(folder)
    assert disk.get(group(0)) == b"x" * 100
    with pytest.raises(JournalError, match=r"the 100 bytes at 100 in segment 0 of its log are not those that were written"):
        disk.get(group(1))
    disk.close()
    (folder / "frames-0.bin").unlink()
    disk = LoggedDisk.open(folder, readonly=True)
    assert len(disk.defects()) == 2
    disk.close()
    with pytest.raises(JournalError, match=r"segment 0 of the log has 0 bytes, a group ends at 100: the file was lost or cut"):
        LoggedDisk.open(folder)


def test_values_that_overlap_are_found(disk: LoggedDisk) -> None:
    disk.commit({group(0): b"x" * 100}, [])
    place = disk._index.find([group(0)])[group(0)]
    disk._index.commit({group(1): place}, [])
    assert disk.defects() == ["two groups lie at 0 in segment 0 of the log"]


def write_until_killed(folder: Path, told: int, life: int) -> None:
    """Commit groups, two at a time, drop most of them again, and tell every ordinal that is durable."""
    disk = LoggedDisk.open(folder)
    for number in range(life, life + 10_000, 2):
        dropped = [] if number % 20 else disk.keys(r.GROUP)[:-4]
        disk.commit({group(i): frame_of(i) for i in (number, number + 1)}, dropped)
        os.write(told, (number + 1).to_bytes(8, "big"))


def frame_of(ordinal: int) -> bytes:
    return random.Random(ordinal).randbytes(70 + 997 * ordinal % 30_000)


def test_what_was_said_to_be_durable_is_there_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(0)
    for life in range(0, 40_000, 10_000):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            write_until_killed(tmp_path, writing, life)
            os._exit(0)
        os.close(writing)
        told = b"".join(os.read(reading, 8) for _ in range(rng.randrange(3, 40)))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        told += os.read(reading, 1 << 16)
        os.close(reading)
        newest = int.from_bytes(told[-8:], "big")
        disk = LoggedDisk.open(tmp_path)
        ordinals = [r.number_of(key) for key in disk.keys(r.GROUP)]
        assert newest in ordinals
        assert all(disk.get(group(ordinal)) == frame_of(ordinal) for ordinal in ordinals)
        assert disk.defects() == []
        disk.close()
