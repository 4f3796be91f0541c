"""A disk that is really full: a small file system of its own, which only root can make."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.bench.transport import make_group
from prolong.buffer.journal.journal import open_journal
from prolong.buffer.journal.records import BufferState, PromptCursor
from prolong.common.errors import JournalFull


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, timeout=30, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """3 MiB; `mount -o remount` makes it larger."""
    if not mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)):
        pytest.skip("needs the right to mount a file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], timeout=30, check=True)


def state(version: int) -> BufferState:
    return BufferState(ledger={}, version=version, cursor=PromptCursor(credits=[], drawn=[]))


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_writes_nothing_half_and_goes_on_when_there_is_room(small_disk: Path, background: bool) -> None:
    journal = open_journal(small_disk / "journal", max_gb=1.0, keep_history=False, background=background)

    def commit(version: int) -> None:
        while written := journal.commit(state(version)):
            written.exception(60.0)

    durable = 0
    with pytest.raises(JournalFull, match=r"No space left on device.*nothing more is acknowledged until there is"):  # noqa: PT012
        for ordinal in range(100):
            journal.put_group(make_group(ordinal, 1024), b"")
            commit(ordinal)
            durable = ordinal + 1
    assert 5 < durable < 30
    with pytest.raises(JournalFull):
        commit(1000)
    assert mount("-o", "remount,size=30m", str(small_disk))
    commit(2000)
    journal.close()
    again = open_journal(small_disk / "journal", max_gb=1.0, keep_history=False)
    assert [again.group(ordinal).ordinal for ordinal in again.groups()] == list(range(durable + 1)), "also the one that waited"
    newest = again.load_state()
    assert newest is not None
    assert newest.version == 2000
    again.close()
