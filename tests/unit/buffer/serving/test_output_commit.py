"""Nothing is said that the journal does not have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future

import pytest
from prolong.buffer.journal.disk import MemoryDisk
from prolong.buffer.serving.output_commit import RETRY_S, OutputCommit
from prolong.common import messages as m
from prolong.common.errors import JournalError, JournalFull
from prolong.common.transport.wire import Decoder, encode

from ..scene import LEARNER, Scene, config, group, rollout

LIMIT = 1 << 20
decoder: Decoder = Decoder(m.FromBuffer, LIMIT)


class FragileDisk(MemoryDisk):
    """Raises `trouble` instead of committing, and counts commits."""

    trouble: JournalError | None = None
    num_commits = 0

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None] | None:
        if self.trouble is not None:
            raise self.trouble
        self.num_commits += 1
        return super().commit(put, drop)


@pytest.fixture
def disk() -> FragileDisk:
    return FragileDisk()


@pytest.fixture
def scene(disk: FragileDisk) -> Scene:
    """An actor with weights and tickets, and a learner."""
    scene = Scene(config(batch=2, eta=1), disk=disk)
    scene.actor()
    scene.learner()
    scene.weights(0)
    return scene


def heard(output: OutputCommit, now: float) -> list[tuple[bytes, str]]:
    return [(peer, type(decoder.decode(frame)).__name__) for peer, frame in output.flush(now)]


def results(scene: Scene) -> list[bytes]:
    tickets = [lease.ticket for lease in scene.core.run.leases.held_by("actor-0")]
    return [encode(m.GroupResult(group=group(ticket, rollout(0), rollout(0, reward=0.0)))) for ticket in tickets]


def test_a_burst_is_one_commit_and_acknowledged_after_it(scene: Scene, disk: FragileDisk) -> None:
    output, before = OutputCommit(scene.core, LIMIT), disk.num_commits
    for frame in results(scene):
        output.receive([b"actor-0", frame], 1.0)
    assert disk.num_commits == before
    assert heard(output, 1.0) == [(b"actor-0", "GroupAck")] * 4
    assert disk.num_commits == before + 1
    assert heard(output, 1.0) == []
    assert disk.num_commits == before + 1, "no news, no commit"


def test_the_journal_has_the_very_frame_that_a_group_came_in(scene: Scene, disk: FragileDisk) -> None:
    output, frames = OutputCommit(scene.core, LIMIT), results(scene)
    for frame in frames:
        output.receive([b"actor-0", frame], 1.0)
    output.flush(1.0)
    assert [disk.get(key) for key in disk.keys(b"g")] == frames


def test_while_the_disk_is_full_peers_stay_known_and_nothing_is_acknowledged(scene: Scene, disk: FragileDisk) -> None:
    output, tickets = OutputCommit(scene.core, LIMIT), results(scene)
    disk.trouble = JournalFull("no room")
    output.receive([b"actor-0", tickets[0]], 1.0)
    output.receive([b"actor-0", encode(m.Heartbeat())], 1.0)
    output.receive([b"actor-0", encode(scene.hello(m.Role.actor, "actor-0", version=0))], 1.0)
    output.receive([LEARNER, encode(m.TakeBatch(generation=1, version=0))], 1.0)
    output.tick(1.0)
    assert heard(output, 1.0) == [(b"actor-0", "Alive"), (b"actor-0", "Welcome")]
    assert output.full is disk.trouble
    output.receive([b"actor-0", tickets[1]], 1.1)
    output.tick(1.0 + RETRY_S / 2)
    assert heard(output, 1.0 + RETRY_S / 2) == []
    disk.trouble = None
    assert heard(output, 1.0 + RETRY_S / 2) == [], "it is tried again after a while"
    said = heard(output, 1.0 + RETRY_S)
    assert said == [(b"actor-0", "GroupAck"), (b"actor-0", "Tickets"), (b"actor-0", "GroupAck")]
    assert output.full is None
    output.tick(2.5)
    assert (LEARNER, "BatchReady") in heard(output, 2.5)
    assert scene.core.run.counters.total["buffer/journal_full"] == 1


class SlowDisk(FragileDisk):
    """A commit lasts when the test says so."""

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None]:
        self.future: Future[None] = Future()
        super().commit(put, drop)
        return self.future


def test_a_burst_waits_for_its_own_commit_and_not_for_the_next() -> None:
    disk = SlowDisk()
    scene = Scene(config(batch=2, eta=1), disk=FragileDisk())
    scene.actor()
    scene.learner()
    scene.weights(0)
    scene.journal._disk = disk
    output, (first, second, third, _) = OutputCommit(scene.core, LIMIT), results(scene)
    output.receive([b"actor-0", first], 1.0)
    assert heard(output, 1.0) == []
    under_way = output.writing
    assert under_way is not None
    assert under_way is disk.future
    output.receive([b"actor-0", second], 1.0)
    output.receive([b"actor-0", encode(m.Heartbeat())], 1.0)
    assert heard(output, 1.0) == [(b"actor-0", "Alive")]
    assert output.writing is under_way, "one at a time"
    under_way.set_result(None)
    assert heard(output, 1.0) == [(b"actor-0", "GroupAck")], "the first"
    assert output.writing is not under_way
    output.receive([b"actor-0", third], 1.0)
    disk.future.set_exception(JournalFull("no room"))
    assert heard(output, 1.0) == []
    assert output.full is not None
    heard(output, 1.0 + RETRY_S)
    disk.future.set_result(None)
    assert heard(output, 1.0 + RETRY_S) == [(b"actor-0", "GroupAck")] * 2
    assert (output.writing, output.full) == (None, None)


def test_nothing_becomes_due_while_the_disk_is_full(scene: Scene, disk: FragileDisk) -> None:
    output = OutputCommit(scene.core, LIMIT)
    disk.trouble = JournalFull("no room")
    output.receive([b"actor-0", results(scene)[0]], 1.0)
    output.flush(1.0)
    for second in range(2, 200):
        output.tick(float(second))
        output.flush(float(second))
    assert scene.counts["leased"] == 3, "no lease ran out"


def test_a_learner_is_not_welcomed_into_a_generation_that_is_not_durable(disk: FragileDisk) -> None:
    scene = Scene(config(), disk=disk)
    output = OutputCommit(scene.core, LIMIT)
    disk.trouble = JournalFull("no room")
    output.receive([LEARNER, encode(scene.hello(m.Role.learner, "learner", version=0))], 1.0)
    assert heard(output, 1.0) == []
    disk.trouble = None
    assert heard(output, 3.0) == [(LEARNER, "Welcome")]


def test_a_broken_disk_ends_it(scene: Scene, disk: FragileDisk) -> None:
    output = OutputCommit(scene.core, LIMIT)
    disk.trouble = JournalError("input/output error")
    output.receive([b"actor-0", results(scene)[0]], 1.0)
    with pytest.raises(JournalError, match="input/output error"):
        output.flush(1.0)
