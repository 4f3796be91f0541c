"""A sound journal passes; each kind of damage is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from prolong.buffer.audit import audit
from prolong.buffer.journal import records as r
from prolong.buffer.journal.disk import MemoryDisk
from prolong.buffer.journal.journal import Journal
from prolong.buffer.journal.logged_disk import LoggedDisk
from prolong.common import messages as m
from prolong.common.config.sections import AdaptiveConfig, ValidationConfig
from prolong.common.errors import JournalError

from .scene import LEARNER, Scene, config

Damage = Callable[[MemoryDisk], object]


@pytest.fixture
def disk() -> MemoryDisk:
    """Of a run with batches that were forgotten, batches that are kept, and tickets in every state."""
    cfg = config(batch=4, eta=2, validation=ValidationConfig(every=2, n=2), checkpoint_every=1)
    cfg.checkpoint.keep = 2
    scene = Scene(cfg, heldout=2, disk=MemoryDisk())
    scene.actor(capacity=16)
    scene.learner()
    for version in range(5):
        scene.weights(version)
        while leases := scene.core.run.leases.held_by("actor-0"):
            for number, lease in enumerate(leases):
                scene.result(lease.ticket, spread=number != 1)
        assert scene.take(version)
        scene.done(version + 1)
        scene.say(LEARNER, m.CheckpointSaved(generation=1, version=version + 1))
    scene.weights(5)
    first, second, *_ = scene.core.run.leases.held_by("actor-0")
    scene.result(first.ticket)
    scene.say("actor-0", m.TicketReturned(ordinal=second.ticket.ordinal, reason="no room"))
    assert {"stored", "leased", "failed", "filtered", "trained"} <= set(scene.counts)
    disk = scene.disk
    assert isinstance(disk, MemoryDisk)
    return disk


def test_a_sound_journal_has_no_findings(disk: MemoryDisk) -> None:
    found = audit(Journal(disk))
    assert found.findings == []
    assert found.num_records > 20
    assert found.batches == [4], "what the oldest checkpoint needs"
    assert found.num_moves > 10
    assert found.ledger["total"] == sum(count for state, count in found.ledger.items() if state != "total")


def last(disk: MemoryDisk, kind: bytes) -> bytes:
    return disk.keys(kind)[-1]


def flip(kind: bytes) -> Damage:
    def damage(disk: MemoryDisk) -> None:
        key = last(disk, kind)
        value = bytearray(disk.get(key) or b"")
        value[-3] ^= 4
        disk.commit({key: bytes(value)}, [])

    return damage


def unreadable(kind: bytes, value: bytes = b"seven") -> Damage:
    return lambda disk: disk.commit({r.key(kind, 3): value}, [])


def decision_by_impossible_rules() -> bytes:
    evidence = r.EtaEvidence(version=3, ess=1.0, kl=0.0, wait_s=0.0, step_s=1.0, held_s=0.0)
    tree = msgspec.to_builtins(r.EtaRecord(evidence=evidence, rules=AdaptiveConfig(), state=r.EtaState(eta=1), eta=1))
    return r.pack_record(tree | {"rules": tree["rules"] | {"ess": 7.0}})


def lose(kind: bytes, which: int = -1) -> Damage:
    return lambda disk: disk.commit({}, [disk.keys(kind)[which]])


def newest(**changes: object) -> Damage:
    def damage(disk: MemoryDisk) -> None:
        state = Journal(disk).load_state()
        assert state is not None
        ledger = state.ledger | changes
        disk.commit({r.NEWEST: r.pack_record(msgspec.structs.replace(state, ledger=ledger))}, [])

    return damage


def batch(change: Callable[[list[int]], list[int]]) -> Damage:
    def damage(disk: MemoryDisk) -> None:
        key = last(disk, r.BATCH)
        record = Journal(disk).batch_record(r.number_of(key))
        disk.commit({key: r.pack_record(msgspec.structs.replace(record, ordinals=change(record.ordinals)))}, [])

    return damage


def moves(change: Callable[[list[r.Move]], list[r.Move]]) -> Damage:
    def damage(disk: MemoryDisk) -> None:
        key = last(disk, r.MOVES)
        record = r.unpack_record(disk.get(key) or b"", list[r.Move], "moves")
        disk.commit({key: r.pack_record(change(record))}, [])

    return damage


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (flip(r.GROUP), "group of ticket .*checksum of a frame"),
        (flip(r.BATCH), "record b'b.*checksum is wrong"),
        (flip(r.TICKET), "record b't.*checksum is wrong"),
        (flip(r.STATE), "record b's.*checksum is wrong"),
        (flip(r.NEWEST), "record b'n'.*checksum is wrong"),
        (flip(r.SWEEPS), "record b'w'.*checksum is wrong"),
        (flip(r.SCORES), "record b'e'.*checksum is wrong"),
        (unreadable(r.RETRY), "record b'q.*checksum is wrong"),
        (unreadable(r.ETA), "record b'a.*checksum is wrong"),
        (unreadable(r.ETA, decision_by_impossible_rules()), "record b'a.*does not decode: buffer.adaptive.ess = 7"),
        (lose(r.GROUP, 0), "the group of ticket .* is in a batch and lost"),
        (lose(r.GROUP), "8 tickets are stored, the ledger counts 9"),
        (lose(r.TICKET), "tickets are leased, the ledger counts|is in no batch"),
        (lose(r.BATCH), "is in no batch"),
        (lose(r.MOVES), "the ledger made .* moves, those from"),
        (lose(r.STATE, 0), "checkpoint of version 4, the state that belongs to it is gone"),
        (lose(r.NEWEST), "it holds no state"),
        (newest(trained=7), "the moves add up to 20 trained, the ledger says 7"),
        (newest(stored=11), "9 tickets are stored, the ledger counts 11"),
        (newest(stale=-1), "a count is negative"),
        (batch(lambda ordinals: [*ordinals, ordinals[0]]), "is in 2 batches"),
        (batch(lambda ordinals: ordinals[1:]), "is in no batch"),
        (
            moves(lambda steps: [*steps[:-1], r.Move(steps[-1].ordinal, 4, 2)]),
            "went from trained to stored|and then left trained",
        ),
    ],
)
def test_damage_is_found_and_named(disk: MemoryDisk, damage: Damage, finding: str) -> None:
    damage(disk)
    found = audit(Journal(disk))
    assert found.num_findings > 0
    assert re.search(finding, "\n".join(found.findings))


def test_a_journal_whose_last_moves_do_not_read_is_refused(disk: MemoryDisk) -> None:
    flip(r.MOVES)(disk)
    with pytest.raises(JournalError, match=r"record b'm.*checksum is wrong"):
        Journal(disk)


def test_findings_are_counted_beyond_those_that_are_described(disk: MemoryDisk) -> None:
    for key in disk.keys(r.GROUP):
        disk.commit({r.key(r.GROUP, 10_000 + r.number_of(key)): disk.get(key) or b""}, [])
    for number in range(30):
        disk.commit({r.key(r.GROUP, 20_000 + number): b""}, [])
    found = audit(Journal(disk))
    assert len(found.findings) == 20
    assert found.num_findings > 60


def test_damage_of_the_log_on_a_real_disk_is_found(disk: MemoryDisk, tmp_path: Path) -> None:
    real = LoggedDisk.open(tmp_path)
    real.commit({key: disk.get(key) or b"" for key in disk.keys(b"")}, [])
    assert audit(Journal(real)).findings == []
    num_groups = len(disk.keys(r.GROUP))
    real.close()
    with (tmp_path / "frames-0.bin").open("r+b") as file:
        file.seek(20)
        file.write(b"?")
    damaged = LoggedDisk.open(tmp_path)
    (finding,) = audit(Journal(damaged)).findings
    assert "are not those that were written" in finding
    damaged.close()
    (tmp_path / "frames-0.bin").unlink()
    gone = LoggedDisk.open(tmp_path, readonly=True)
    assert audit(Journal(gone)).num_findings == 2 * num_groups, "each is outside of its file, and cannot be read"
    gone.close()
