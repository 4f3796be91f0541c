"""The journal's disk under kills and power cuts at any point of a commit: it is as before that commit, or as after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping

import pytest
from prolong.buffer.journal import records as r
from prolong.buffer.journal.group_log import FramePlace
from prolong.buffer.journal.logged_disk import LoggedDisk
from prolong.common.errors import JournalError, JournalFull

from tests.simulator.disk import SEGMENT_BYTES, Crashed, FaultyDisk, FaultyFiles

LIVES, COMMITS, SEEDS = 6, 25, 60
FATES = ["torn"] * 6 + ["written", "lost", "kept", "full"]

Patch = pytest.MonkeyPatch
Values = dict[bytes, bytes]


class Run:
    """Random commits, and what the disk must hold after each."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = FaultyDisk(lambda put, drop: None, seed)
        self.lasting: Values = {}
        self.num_ordinals = 0
        self.num_deaths = 0

    def change(self) -> tuple[Values, list[bytes]]:
        """Some groups come, some small records change; now and then most groups go, as at a checkpoint."""
        put: Values = {b"n": self.rng.randbytes(20)}
        for _ in range(self.rng.randrange(4)):
            size = self.rng.choice((70, 300, 700, SEGMENT_BYTES + 100))
            put[r.key(r.GROUP, self.num_ordinals)] = self.rng.randbytes(size)
            self.num_ordinals += 1
        groups = [key for key in self.lasting if key[:1] == r.GROUP]
        share = self.rng.choice((0.0, 0.0, 0.1, 0.9))
        return put, [key for key in groups if self.rng.random() < share]

    def live(self) -> None:
        """One life of the writer: it ends with a death, or after some commits."""
        opened = self.disk.open()
        self.check(opened, self.lasting, self.lasting)
        for _ in range(COMMITS):
            put, drop = self.change()
            after = {key: value for key, value in (self.lasting | put).items() if key not in drop}
            fate = self.rng.choice([*FATES, *[""] * 20])
            self.disk.doom, self.disk.is_full = ("", True) if fate == "full" else (fate, False)
            try:
                opened.commit(put, drop)
            except JournalFull:
                assert fate == "full"
            except JournalError:
                # it may have happened all the same, and the writer goes on
                self.lasting = self.check(opened, self.lasting, after)
            except Crashed:
                self.num_deaths += 1
                self.lasting = self.check(self.disk.open(), self.lasting, after)
                return
            else:
                self.lasting = after
            self.disk.doom, self.disk.is_full = "", False
            self.check(opened, self.lasting, self.lasting)

    def check(self, disk: LoggedDisk, before: Values, after: Values) -> Values:
        """The values that the disk holds, which must be one of the two."""
        found = {key: disk.get(key) for key in disk.keys(b"")}
        assert found in (before, after)
        assert disk.defects() == []
        return after if found == after else before


def test_a_commit_happens_whole_or_not_at_all_wherever_the_process_or_the_machine_dies() -> None:
    num_deaths = 0
    for seed in range(SEEDS):
        run = Run(seed)
        for _ in range(LIVES):
            run.live()
        num_deaths += run.num_deaths
    assert num_deaths > SEEDS * LIVES / 2


def test_segments_are_written_again_and_not_piled_up() -> None:
    disk = FaultyDisk(lambda put, drop: None)
    opened = disk.open()
    for number in range(500):
        dropped = [r.key(r.GROUP, number - 10)] if number >= 10 else []
        opened.commit({r.key(r.GROUP, number): bytes(500)}, dropped)
    assert sum(disk.files.sizes().values()) < 8 * SEGMENT_BYTES


def not_synced(patch: Patch) -> None:
    patch.setattr(FaultyFiles, "sync", lambda self, number: None)


def written_again_before_the_index_let_go(patch: Patch) -> None:
    def write(
        self: LoggedDisk, put: Mapping[bytes, bytes], drop: Collection[bytes], outdated: list[FramePlace], growth: int
    ) -> None:
        self._log.settle([], outdated)
        write_well(self, put, drop, [], growth)

    write_well = LoggedDisk._write
    patch.setattr(LoggedDisk, "_write", write)


def not_restored_after_a_failed_commit(patch: Patch) -> None:
    restore_well = LoggedDisk._restore_log

    def restore(self: LoggedDisk) -> None:
        if not hasattr(self, "num_bytes"):
            restore_well(self)

    patch.setattr(LoggedDisk, "_restore_log", restore)


@pytest.mark.parametrize("plant", [not_synced, written_again_before_the_index_let_go, not_restored_after_a_failed_commit])
def test_a_planted_bug_is_caught(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, JournalError)):
        test_a_commit_happens_whole_or_not_at_all_wherever_the_process_or_the_machine_dies()
