from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prolong.buffer.journal import BatchLog, BufferState, Journal, MemoryJournal, MixtureCursor
from prolong.common.errors import JournalError
from prolong.common.types import Batch, Group, TicketKind

from .scene import SAMPLING, prompt, rollout


def batch(version: int, *, tokens: int = 4) -> Batch:
    group = Group(
        ordinal=version,
        kind=TicketKind.train,
        generation=1,
        prompt=prompt(version),
        setting="",
        sampling=SAMPLING,
        rollouts=[rollout(version, tokens=tokens), rollout(version, reward=0.0, tokens=tokens)],
        actor="a",
        seconds=1.0,
    )
    return Batch(generation=1, version=version, groups=[group], metrics={"buffer/staleness_max": 1.0})


def state(version: int) -> BufferState:
    return BufferState(
        generation=1,
        version=version,
        head=version + 1,
        epoch=3,
        ledger={"trained": version},
        next_ordinal=10 * version,
        cursor=MixtureCursor(credits=[0.25], drawn=[version]),
        unfinished=["sum/3"],
    )


@pytest.fixture(params=["lmdb", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BatchLog]:
    """Opens the same journal again and again."""
    memory = MemoryJournal()
    return (lambda: Journal(tmp_path / "journal", max_gb=0.1)) if request.param == "lmdb" else (lambda: memory)


def test_what_was_logged_is_read_back_the_same_after_reopening(log: Callable[[], BatchLog]) -> None:
    journal = log()
    for version in (300, 2, 1):  # versions sort as numbers, not as text
        journal.log_batch(batch(version), state(version))
    journal.save_state(2, state(2))
    journal.close()
    journal = log()
    assert journal.versions() == [1, 2, 300]
    assert journal.batch(300) == batch(300)
    assert journal.batch(7) is None
    assert journal.load_state() == state(1)
    assert journal.load_state(2) == state(2)
    assert journal.load_state(300) is None
    journal.close()


def test_batches_and_states_before_the_oldest_checkpoint_are_forgotten(log: Callable[[], BatchLog]) -> None:
    journal = log()
    for version in range(5):
        journal.log_batch(batch(version), state(version))
        journal.save_state(version, state(version))
    journal.forget_before(3)
    assert journal.versions() == [3, 4]
    assert (journal.load_state(2), journal.load_state(3), journal.load_state()) == (None, state(3), state(4))
    journal.close()


def test_a_dead_timeline_is_forgotten(log: Callable[[], BatchLog]) -> None:
    journal = log()
    for version in range(5):
        journal.log_batch(batch(version), state(version))
        journal.save_state(version, state(version))
    journal.forget_from(3)
    assert journal.versions() == [0, 1, 2]
    assert journal.load_state(3) == state(3), "the checkpoint itself belongs to both timelines"
    assert journal.load_state(4) is None
    journal.close()


def test_a_full_journal_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_gb=1 / 1024)
    journal.log_batch(batch(0), state(0))
    with pytest.raises(JournalError, match=r"is full: \d+ bytes do not fit"):
        journal.log_batch(batch(1, tokens=200_000), state(1))
    assert journal.versions() == [0]
    assert journal.load_state() == state(0)
    journal.close()


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_gb=0.1)
    journal._write({b"newest": b"\xc1"})
    with pytest.raises(JournalError, match="holds a BufferState that this version cannot read"):
        journal.load_state()
    journal.close()


def test_a_logged_batch_survives_a_process_that_dies_at_once(tmp_path: Path) -> None:
    script = (
        "import os, sys, msgspec\n"
        "from prolong.buffer.journal import Journal, BufferState\n"
        "from prolong.common.types import Batch\n"
        "b, s = sys.stdin.buffer.read().split(b'|||')\n"
        "journal = Journal(sys.argv[1], max_gb=0.1)\n"
        "journal.log_batch(msgspec.json.decode(b, type=Batch), msgspec.json.decode(s, type=BufferState)); os._exit(9)\n"
    )
    import msgspec

    payload = msgspec.json.encode(batch(4)) + b"|||" + msgspec.json.encode(state(4))
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], input=payload, timeout=60, env=dict(os.environ))
    assert died.returncode == 9
    journal = Journal(tmp_path, max_gb=0.1)
    assert journal.batch(4) == batch(4)
    assert journal.load_state() == state(4)
    journal.close()
