import inspect
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
from prolong.learner.source.feed import BatchFeed
from prolong.learner.source.live import Link
from prolong.learner.source.recorded import RecordedFeed, RecordedLink, UpTo

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


def recorded(folder: Path, batches: list[Batch], stop: threading.Event | None = None) -> RecordedLink:
    record_history(folder, batches)
    return RecordedLink(Config(), Ranks(), read_journal(folder), stop or threading.Event())


@pytest.mark.parametrize(("ours", "live"), [(RecordedLink, Link), (RecordedFeed, BatchFeed)])
def test_it_can_stand_where_the_live_one_stands(ours: type, live: type) -> None:
    """The same public methods with the same parameters."""

    def shape(kind: type) -> dict[str, list[str]]:
        methods = {name: member for name, member in vars(kind).items() if not name.startswith("_") and callable(member)}
        return {name: list(inspect.signature(member).parameters) for name, member in methods.items()}

    assert shape(ours) == shape(live)


def test_batches_come_as_they_were_recorded_with_the_generation_of_each(tmp_path: Path) -> None:
    batches = [random_batch(version, generation=1 if version < 5 else 2) for version in range(3, 7)]
    link = recorded(tmp_path, batches)
    link.connect(3, 1, 0)
    assert link.generation == 1
    for batch in batches:
        assert link.feed.take(batch.version) == batch
        assert link.generation == batch.generation
    assert link.feed.ended is None
    assert link.finish(7) is None
    link.close()


def test_the_end_of_the_history_ends_the_run_well(tmp_path: Path) -> None:
    link = recorded(tmp_path, [random_batch(0)])
    link.connect(1, 1, 0)  # a learner that has made the last version already
    assert link.feed.take(1) is None
    assert isinstance(link.feed.ended, RunStopped)
    assert link.feed.ended.exit_code == 0
    assert "version 1" in str(link.feed.ended)


def test_a_history_can_be_cut_at_a_version(tmp_path: Path) -> None:
    batches = [random_batch(version) for version in range(2, 6)]
    record_history(tmp_path, batches)
    link = RecordedLink(Config(), Ranks(), UpTo(read_journal(tmp_path), 4), threading.Event())
    with pytest.raises(JournalError, match="from version 2 to 4"):
        link.connect(5, 1, 0)
    link.connect(2, 1, 0)
    assert [link.feed.take(version) for version in (2, 3, 4)] == [*batches[:2], None]
    assert isinstance(link.feed.ended, RunStopped)
    link.close()


def test_a_stop_ends_it_between_two_batches(tmp_path: Path) -> None:
    stop = threading.Event()
    link = recorded(tmp_path, [random_batch(0)], stop)
    stop.set()
    assert link.feed.take(0) is None
    assert link.feed.ended is None


@pytest.mark.parametrize(("versions", "at"), [([], 0), ([4, 5], 3), ([4, 5], 7)])
def test_a_learner_that_cannot_go_on_from_the_history_is_refused(tmp_path: Path, versions: list[int], at: int) -> None:
    link = recorded(tmp_path, [random_batch(version) for version in versions])
    with pytest.raises(JournalError, match="history holds"):
        link.connect(at, 1, 0)


def test_a_recorded_batch_that_breaks_the_staleness_contract_is_not_given(tmp_path: Path) -> None:
    stale = random_batch(0)
    link = recorded(tmp_path, [msgspec.structs.replace(stale, version=9)])
    assert link.feed.take(9) is None
    assert isinstance(link.feed.ended, StalenessViolation)


def test_other_ranks_get_what_the_first_one_read(tmp_path: Path) -> None:
    record_history(tmp_path, [random_batch(0)])
    sent: list[bytes] = []
    first = RecordedFeed(Config(), Pair(rank=0, size=2, sent=sent), read_journal(tmp_path), threading.Event())
    second = RecordedLink(Config(), Pair(rank=1, size=2, sent=sent), None, threading.Event())
    second.connect(0, 1, 0)
    assert first.take(0) == second.feed.take(0) == random_batch(0)
    assert first.take(1) is second.feed.take(1) is None
    assert second.generation == -1
    second.close()
