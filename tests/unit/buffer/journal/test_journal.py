from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest
from prolong.buffer.journal import records as r
from prolong.buffer.journal.disk import MemoryDisk
from prolong.buffer.journal.journal import Journal, open_journal, read_journal
from prolong.buffer.journal.logged_disk import LoggedDisk
from prolong.common.errors import JournalError, JournalFull
from prolong.common.messages import GroupResult
from prolong.common.transport.wire import encode
from prolong.common.types import Batch, Group, TicketKind, ValidationSetting

from ..scene import SAMPLING, prompt, rollout


def group(ordinal: int, *, tokens: int = 4) -> Group:
    return Group(
        ordinal=ordinal,
        kind=TicketKind.train,
        generation=1,
        prompt=prompt(ordinal),
        setting=ValidationSetting.none,
        sampling=SAMPLING,
        rollouts=[rollout(0, tokens=tokens), rollout(0, reward=0.0, tokens=tokens)],
        actor="a",
        seconds=1.0,
    )


def batch(version: int, *, tokens: int = 4) -> Batch:
    return Batch(
        generation=1,
        version=version,
        groups=[group(2 * version + 1, tokens=tokens), group(2 * version, tokens=tokens)],
        reset_requested=version == 2,
        metrics={"buffer/staleness_max": 1.0},
    )


def log(journal: Journal, version: int, *, tokens: int = 4) -> None:
    """As the buffer does: groups when they are stored, the batch when it is formed."""
    made = batch(version, tokens=tokens)
    for one in made.groups:
        journal.put_group(one, b"")
    journal.log_batch(made)
    journal.add_moves([r.Move(one.ordinal, 2, 3) for one in made.groups])


def state(version: int, *, num_moves: int = 0) -> r.BufferState:
    return r.BufferState(
        generation=1,
        version=version,
        head=version + 1,
        ledger={"trained": version},
        num_moves=num_moves,
        cursor=r.PromptCursor(credits=[0.25], drawn=[version]),
    )


def versions_elsewhere(folder: Path) -> str:
    """The versions that another process reads: LMDB opens a folder once per process."""
    script = "from prolong.buffer.journal.journal import *; print(read_journal(pathlib.Path(sys.argv[1])).versions())"
    script = f"import pathlib, sys; {script}"
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.fixture(params=["lmdb", "memory"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """Opens the same disk again and again, as a process that died before: changes that were not committed are gone."""
    memory, opened = MemoryDisk(), []

    def open_again() -> Journal:
        for journal in opened:
            journal.close()
        disk = LoggedDisk.open(tmp_path / "journal", 0.1) if request.param == "lmdb" else memory
        opened[:] = [Journal(disk)]
        return opened[0]

    yield open_again
    for journal in opened:
        journal.close()


def test_what_was_committed_is_read_back_the_same_after_reopening(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    for version in (300, 2, 1):  # versions sort as numbers, not as text
        log(journal, version)
    journal.save_state(2, state(2))
    assert journal.commit(state(7)) is None, "durable"
    journal = reopen()
    assert journal.versions() == [1, 2, 300]
    assert journal.batch(300) == batch(300)
    assert journal.batch(2) == batch(2)
    assert journal.batch(7) is None
    assert (journal.load_state(), journal.load_state(2), journal.load_state(300)) == (state(7), state(2), None)
    assert journal.moves() == (0, [r.Move(ordinal, 2, 3) for ordinal in (601, 600, 5, 4, 3, 2)])
    assert journal.num_moves == 6


def test_pending_changes_are_seen_by_readers_and_lost_by_a_restart(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    log(journal, 0)
    journal.commit(state(0))
    log(journal, 1)
    journal.drop(r.key(r.GROUP, 0))
    assert (journal.versions(), journal.groups()) == ([0, 1], [1, 2, 3])
    assert journal.batch(1) == batch(1)
    journal = reopen()
    assert (journal.versions(), journal.groups()) == ([0], [0, 1])
    assert journal.batch(0) == batch(0)


def test_a_commit_without_news_writes_nothing(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.commit(state(0))
    written: list[dict[bytes, bytes]] = []
    journal._disk.commit = lambda put, drop: written.append(dict(put))  # type: ignore[method-assign]
    journal.commit(state(0))
    assert written == []
    journal.commit(state(1))
    assert written == [{r.NEWEST: r.pack_record(state(1))}]


def test_batches_states_and_moves_before_the_oldest_checkpoint_are_forgotten(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    for version in range(5):
        journal.save_state(version, state(version, num_moves=journal.num_moves))
        log(journal, version)
        journal.commit(state(version))
    journal.forget_before(3)
    journal.commit(state(5))
    assert (journal.versions(), journal.states(), journal.groups()) == ([3, 4], [3, 4], [6, 7, 8, 9])
    assert journal.moves()[0] == 6, "the moves that follow the oldest state"


def test_moves_that_the_state_of_any_kept_checkpoint_lacks_stay(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    log(journal, 0)
    journal.save_state(3, state(3, num_moves=journal.num_moves))
    log(journal, 1)
    log(journal, 2)
    # a learner that went back to before it repeats this step, and saves now
    journal.save_state(2, state(2, num_moves=journal.num_moves))
    log(journal, 3)
    journal.forget_before(2)
    assert journal.moves()[0] == 2
    journal.forget_before(3)
    assert journal.moves()[0] == 2


def test_a_history_that_is_kept_is_kept_whole(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_gb=0.1, keep_history=True)
    for version in range(3):
        journal.save_state(version, state(version, num_moves=journal.num_moves))
        log(journal, version)
    journal.forget_before(2)
    journal.commit(state(3))
    assert (journal.versions(), journal.states(), journal.moves()[0]) == ([0, 1, 2], [0, 1, 2], 0)
    journal.close()


def test_a_dead_generation_is_forgotten_with_its_groups(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    for version in range(5):
        log(journal, version)
        journal.save_state(version, state(version))
    journal.forget_from(3)
    assert (journal.versions(), journal.groups()) == ([0, 1, 2], [0, 1, 2, 3, 4, 5])
    assert journal.load_state(3) == state(3), "the checkpoint itself belongs to both generations"
    assert journal.load_state(4) is None


def test_the_first_state_of_a_checkpoint_is_the_true_one(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.save_state(4, state(4, num_moves=1))
    journal.save_state(4, state(4, num_moves=9))
    assert journal.load_state(4) == state(4, num_moves=1)


def test_a_full_journal_writes_nothing_says_so_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    journal = Journal(LoggedDisk.open(tmp_path, max_gb=1 / 1024), where="the journal")
    log(journal, 0, tokens=10_000)
    journal.commit(state(0))
    log(journal, 1, tokens=30_000)
    for _ in range(2):
        with pytest.raises(JournalFull, match=r"buffer\.journal_gb = 0\.000976562: nothing more is acknowledged until"):
            journal.commit(state(1))
    assert journal.versions() == [0, 1], "still pending"
    assert versions_elsewhere(tmp_path) == "[0]"
    journal.save_state(2, state(2))
    journal.forget_before(1)  # a checkpoint lets go of batch 0
    journal.commit(state(1))
    assert journal.versions() == [1]
    assert journal.num_bytes() < 2**20
    journal.close()


class SlowDisk(MemoryDisk):
    """A commit lasts when the test says so."""

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None]:
        self.write = lambda: MemoryDisk.commit(self, put, drop)
        self.future: Future[None] = Future()
        return self.future

    def finish(self, error: JournalError | None = None) -> None:
        if error is None:
            self.write()
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


def test_while_a_commit_is_under_way_readers_see_it_and_later_changes_on_top() -> None:
    disk = SlowDisk()
    journal = Journal(disk)
    log(journal, 0)
    assert journal.commit(state(0)) is disk.future
    log(journal, 1)
    journal.drop(r.key(r.STATE, 0))
    assert (journal.versions(), journal.batch(0), journal.load_state()) == ([0, 1], batch(0), state(0))
    disk.finish()
    assert disk.keys(r.BATCH) == [r.key(r.BATCH, 0)]
    assert journal.commit(state(1)) is disk.future
    disk.finish()
    assert journal.commit(state(1)) is None, "no news, and the last commit is done"
    assert Journal(disk).versions() == [0, 1]


def test_what_a_commit_could_not_write_is_pending_again_below_later_changes() -> None:
    disk = SlowDisk()
    journal = Journal(disk)
    log(journal, 0)
    journal.put(r.SCORES, [])
    journal.commit(state(0))
    journal.drop(r.SCORES)
    disk.finish(JournalFull("no room"))
    with pytest.raises(JournalFull, match="no room"):
        journal.commit(state(1))
    assert (journal.versions(), disk.keys(b"")) == ([0], [])
    journal.commit(state(2))
    disk.finish()
    assert (Journal(disk).versions(), Journal(disk).load_state(), disk.get(r.SCORES)) == ([0], state(2), None)


def test_a_thread_writes_the_same(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_gb=0.1, keep_history=False, background=True)
    for version in range(20):
        log(journal, version)
        written = journal.commit(state(version))
        assert written is not None
        written.result(60.0)
    log(journal, 20)
    journal.commit(state(20))
    journal.close()  # waits for the one under way
    again = open_journal(tmp_path, max_gb=0.1, keep_history=False)
    assert again.versions() == list(range(21))
    assert again.load_state() == state(20)
    again.close()


def test_the_size_of_a_reopened_journal_is_the_size_of_the_one_that_wrote_it(tmp_path: Path) -> None:
    journal = Journal(LoggedDisk.open(tmp_path))
    log(journal, 0, tokens=10_000)
    log(journal, 1, tokens=10_000)
    journal.commit(state(1))
    journal.forget_from(1)
    journal.commit(state(2))
    written = journal.num_bytes()
    assert written > 2 * 80_000
    journal.close()
    again = Journal(LoggedDisk.open(tmp_path))
    assert again.num_bytes() == written
    again.close()


def read_all(disk: MemoryDisk) -> None:
    journal = Journal(disk)
    journal.load_state()
    journal.batch(0)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (r.NEWEST, b"\0\0\0\0\xc1", "record b'n': 5 bytes whose checksum is wrong"),
        (r.NEWEST, r.pack_record({"version": "seven"}), "record b'n' does not decode"),
        (r.key(r.GROUP, 0), encode(GroupResult(group=group(0)))[:-1], "group of ticket 0: checksum of a frame"),
        (r.key(r.GROUP, 0), None, "has lost the group of ticket 0"),
        (r.FORMAT_KEY, r.pack_record(1), "has format 1, this version of prolong reads 2 to 3"),
        (r.FORMAT_KEY, None, "has format None"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(key: bytes, value: bytes | None, why: str) -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    log(journal, 0)
    journal.commit(state(0))
    disk.commit({} if value is None else {key: value}, [key] if value is None else [])
    with pytest.raises(JournalError, match=why):
        read_all(disk)


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_gb=0.1, keep_history=False)
    log(journal, 0)
    journal.commit(state(0))
    with pytest.raises(JournalError, match="is being written by another buffer; stop it first"):
        open_journal(tmp_path, max_gb=0.1, keep_history=False)
    assert versions_elsewhere(tmp_path) == "[0]"
    journal.close()
    open_journal(tmp_path, max_gb=0.1, keep_history=False).close()


def test_a_run_without_a_journal_is_told_apart_from_a_broken_one(tmp_path: Path) -> None:
    open_journal(tmp_path, max_gb=0.0, keep_history=False).close()
    with pytest.raises(JournalError, match="there is no journal in"):
        read_journal(tmp_path)


def test_a_committed_batch_survives_a_process_that_dies_at_once(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        journal = open_journal(tmp_path, max_gb=0.1, keep_history=False)
        log(journal, 4)
        journal.commit(state(4))
        log(journal, 5)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    journal = read_journal(tmp_path)
    assert (journal.versions(), journal.batch(4), journal.load_state()) == ([4], batch(4), state(4))
    journal.close()
