import threading
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from prolong.buffer.journal.journal import read_journal
from prolong.common.config.sections import Config
from prolong.common.errors import JournalError, RunStopped, StalenessViolation
from prolong.common.types import Batch
from prolong.learner.ranks import Ranks
from prolong.learner.source.recorded import NoBatches, RecordedSource, UpTo

from tests.support.batches import random_batch
from tests.support.recorded_run import record_history


@dataclass(slots=True)
class Pair(Ranks):
    """One of two ranks in one process: rank 0 leaves in `sent` what it broadcasts, rank 1 finds it there."""

    sent: list[bytes] = field(default_factory=list)

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        if payload is not None:
            self.sent.append(payload)
        return self.sent[-1]


def recorded(folder: Path, batches: list[Batch], stop: threading.Event | None = None) -> RecordedSource:
    record_history(folder, batches)
    return RecordedSource(Config(), Ranks(), read_journal(folder), stop or threading.Event())


def test_batches_come_as_they_were_recorded_with_the_generation_of_each(tmp_path: Path) -> None:
    batches = [random_batch(version, generation=1 if version < 5 else 2) for version in range(3, 7)]
    source = recorded(tmp_path, batches)
    source.connect(3, 1, 0)
    assert source.generation == 1
    for batch in batches:
        assert source.take(batch.version) == batch
        assert source.generation == batch.generation
    assert source.ended is None
    assert source.finish(7) is None
    source.close()


def test_the_end_of_the_history_ends_the_run_well(tmp_path: Path) -> None:
    source = recorded(tmp_path, [random_batch(0)])
    source.connect(1, 1, 0)  # a learner that has made the last version already
    assert source.take(1) is None
    assert isinstance(source.ended, RunStopped)
    assert source.ended.exit_code == 0
    assert "version 1" in str(source.ended)


def test_a_history_can_be_cut_at_a_version(tmp_path: Path) -> None:
    batches = [random_batch(version) for version in range(2, 6)]
    record_history(tmp_path, batches)
    source = RecordedSource(Config(), Ranks(), UpTo(read_journal(tmp_path), 4), threading.Event())
    with pytest.raises(JournalError, match="from version 2 to 4"):
        source.connect(5, 1, 0)
    source.connect(2, 1, 0)
    assert [source.take(version) for version in (2, 3, 4)] == [*batches[:2], None]
    assert isinstance(source.ended, RunStopped)
    source.close()


def test_a_stop_ends_it_between_two_batches(tmp_path: Path) -> None:
    stop = threading.Event()
    source = recorded(tmp_path, [random_batch(0)], stop)
    stop.set()
    assert source.take(0) is None
    assert source.ended is None


@pytest.mark.parametrize(("versions", "at"), [([], 0), ([4, 5], 3), ([4, 5], 7)])
def test_a_learner_that_cannot_go_on_from_the_history_is_refused(tmp_path: Path, versions: list[int], at: int) -> None:
    source = recorded(tmp_path, [random_batch(version) for version in versions])
    with pytest.raises(JournalError, match="history holds"):
        source.connect(at, 1, 0)


def test_a_recorded_batch_that_breaks_the_staleness_contract_is_not_given(tmp_path: Path) -> None:
    stale = random_batch(0)
    source = recorded(tmp_path, [msgspec.structs.replace(stale, version=9)])
    assert source.take(9) is None
    assert isinstance(source.ended, StalenessViolation)


def test_other_ranks_get_what_the_first_one_read(tmp_path: Path) -> None:
    record_history(tmp_path, [random_batch(0)])
    sent: list[bytes] = []
    first = RecordedSource(Config(), Pair(rank=0, size=2, sent=sent), read_journal(tmp_path), threading.Event())
    second = RecordedSource(Config(), Pair(rank=1, size=2, sent=sent), NoBatches(), threading.Event())
    second.connect(0, 1, 0)
    assert first.take(0) == second.take(0) == random_batch(0)
    assert first.take(1) is second.take(1) is None
    assert second.generation == -1
    second.close()
