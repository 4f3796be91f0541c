"""Sources that lie, flood, stall or stay silent: a puller goes elsewhere, or ends by its deadline with what it had."""

import os
import zlib
from time import monotonic

import pytest
from prolong.common.errors import WeightsError
from prolong.common.transport.wire import encode
from prolong.common.types import WeightSource
from prolong.common.weights.pull import one_pull, origin, window
from prolong.common.weights.pull.protocol import (
    CATALOG,
    PIECE_BYTES,
    CatalogWanted,
    ChunksWanted,
    Gone,
    Later,
    Piece,
    Refusal,
)
from prolong.common.weights.pull.store import Superseded

from tests.support.attack import Memory
from tests.support.hostile_source import HostileSource, lying, pieces
from tests.support.pulls import CHUNK_BYTES, Learner, make_manifest, make_puller, soon, store_of

NOBODY = WeightSource(endpoint="tcp://127.0.0.1:1")


@pytest.fixture
def short_limits(monkeypatch):
    """For tests that wait for a silent source; without it no source is given up because a busy machine makes it late."""
    monkeypatch.setattr(window, "FIRST_SILENCE_S", 1.0)
    monkeypatch.setattr(one_pull, "STALLED_S", 1.0)
    monkeypatch.setattr(origin, "BACKOFF_S", 0.02)


@pytest.fixture
def learner():
    with Learner() as learner:
        learner.step()
        yield learner


def lie(learner: Learner, num_lies: int) -> None:
    learner.server.serve(lying(learner.store, num_lies))


# --- tampered bytes ---------------------------------------------------------------------------------------------------


def test_tampered_chunks_are_refused_and_fetched_again_from_another_source(learner):
    with Learner() as relay, make_puller() as puller, make_puller() as filling:
        filling.pull(learner.update(learner.server.source), soon())
        relay.server.serve(lying(store_of(filling), 1000))
        result = puller.pull(learner.update(relay.server.source, learner.server.source), soon())
        assert learner.is_held_by(puller.store)
        assert result.num_repeated == puller.counters["weights/tampered_chunks"] == 1
        assert result.source == learner.server.source.endpoint


def test_a_tampered_delta_is_fetched_again_in_full_from_the_only_source(learner):
    with make_puller() as puller:
        puller.pull(learner.update(learner.server.source), soon())
        update = learner.step()
        lie(learner, 3)
        result = puller.pull(update, soon())
        assert learner.is_held_by(puller.store)
        assert result.num_repeated == result.num_full == 3


def test_a_source_that_only_lies_is_given_up_and_the_version_held_before_stays_unclaimed(learner):
    with make_puller() as puller:
        lie(learner, 1_000_000)
        with pytest.raises(WeightsError, match=r"no source is left: .*other bytes than the catalog says"):
            puller.pull(learner.update(learner.server.source), soon())
        assert puller.counters["weights/tampered_chunks"] == one_pull.MAX_TAMPERED
        assert store_of(puller).version == -1
        lie(learner, 0)
        puller.pull(learner.update(learner.server.source), soon())
        assert learner.is_held_by(puller.store)


# --- what a source may say --------------------------------------------------------------------------------------------


def bodies(learner, asked, change):
    """An honest answer to the catalog, and pieces that `change` spoils."""
    if isinstance(asked, CatalogWanted):
        content = learner.store.catalog(asked.version)
        piece = Piece(index=CATALOG, offset=0, num_bytes=len(content), total=len(content), steps=None)
        return [pieces(asked, (piece, content))]
    if not isinstance(asked, ChunksWanted):
        return []
    content = bytes(CHUNK_BYTES)
    piece = Piece(index=asked.indices[0], offset=0, num_bytes=CHUNK_BYTES, total=CHUNK_BYTES, steps=None)
    return change(asked, piece, content)


def changed(asked, piece, content, **fields):
    values = {name: getattr(piece, name) for name in piece.__struct_fields__} | fields
    return [pieces(asked, (Piece(**values), content))]


BOMB = zlib.compress(bytes(1 << 24), 9)[:CHUNK_BYTES]
SPOILED = {
    "of no chunk": lambda a, p, c: changed(a, p, c, index=1_000_000),
    "of the catalog again": lambda a, p, c: changed(a, p, c, index=CATALOG),
    "not at the start": lambda a, p, c: changed(a, p, c, offset=16),
    "of a huge body": lambda a, p, c: changed(a, p, c, total=1 << 50),
    "smaller than they say": lambda a, p, c: changed(a, p, c[:-1]),
    "a byte at a time": lambda a, p, c: changed(a, p, c[:1], num_bytes=1),
    "empty": lambda a, p, c: changed(a, p, b"", num_bytes=0),
    "deltas for a newcomer": lambda a, p, c: changed(a, p, c, steps=[(a.version, CHUNK_BYTES)]),
    "steps of other sizes": lambda a, p, c: changed(a, p, c, steps=[(a.version, 1)]),
    "a bomb": lambda a, p, c: changed(a, p, BOMB, num_bytes=len(BOMB), total=len(BOMB), steps=[(a.version, len(BOMB))]),
    "twice": lambda a, p, c: 2 * changed(a, p, c),
    "of another request": lambda a, p, c: [(encode(Later(request=a.request + 1)),)],
    "garbage": lambda a, p, c: [(b"garbage",)],
    "in no frame": lambda a, p, c: [(b"",)],
    "a header alone": lambda a, p, c: [pieces(a, (p, c))[:1]],
    "fifty frames": lambda a, p, c: [(b"x",) * 50],
    "a frame over the limit": lambda a, p, c: [(*pieces(a)[:1], bytes(2 * PIECE_BYTES))],
    "more than was granted": lambda a, p, c: [(pieces(a)[0], bytes(PIECE_BYTES))] * 20,
    "nothing": lambda a, p, c: [],
    "later for ever": lambda a, p, c: [(encode(Later(request=a.request)),)] * 5,
    "refusals": lambda a, p, c: [(encode(Refusal(request=a.request, reason="no" * 1000)),)],
    "wrong bytes": lambda a, p, c: changed(a, p, c),
}


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("what", SPOILED)
def test_whatever_a_source_sends_the_next_one_is_asked(learner, what):
    def behave(asked, say):
        for frames in bodies(learner, asked, SPOILED[what]):
            say(*frames)

    with HostileSource(behave) as hostile, make_puller() as puller:
        result = puller.pull(learner.update(hostile.source, learner.server.source), soon())
        assert learner.is_held_by(puller.store)
        assert result.source == learner.server.source.endpoint
        assert hostile.num_asked > 0


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("what", ["nothing", "later for ever", "garbage", "wrong bytes", "a frame over the limit", "refusals"])
def test_a_hostile_source_alone_cannot_hold_a_puller_beyond_its_deadline(learner, what):
    def behave(asked, say):
        for frames in bodies(learner, asked, SPOILED[what]):
            say(*frames)

    with HostileSource(behave) as hostile, make_puller() as puller:
        started = monotonic()
        with pytest.raises(WeightsError, match="the pull of version 0 failed"):
            puller.pull(learner.update(hostile.source), soon(1.0))
        assert monotonic() - started < 30.0
        assert store_of(puller).version == -1


def test_a_catalog_with_another_digest_is_refused(learner):
    def behave(asked, say):
        content = learner.store.catalog(0)[:-1] + b"\0"
        piece = Piece(index=CATALOG, offset=0, num_bytes=len(content), total=len(content), steps=None)
        say(*pieces(asked, (piece, content)))

    with HostileSource(behave) as hostile, make_puller() as puller:
        puller.pull(learner.update(hostile.source, learner.server.source), soon())
        assert learner.is_held_by(puller.store)
        assert puller.counters["weights/tampered_catalogs"] == 1


def test_a_relay_that_says_superseded_is_believed_only_about_itself(learner):
    def behave(asked, say):
        say(encode(Gone(request=asked.request, newest=1 << 40)))

    with HostileSource(behave) as hostile, make_puller() as puller:
        puller.pull(learner.update(hostile.source, learner.server.source), soon())
        assert learner.is_held_by(puller.store)
        learner.step()
        with pytest.raises(Superseded):
            puller.pull(learner.update(hostile.source), soon())


def test_a_flood_takes_no_more_memory_than_the_window():
    manifest = make_manifest(64 << 20, 1)
    with Learner(manifest, chunk_bytes=4 << 20) as learner:
        learner.step()
        content = bytes(PIECE_BYTES)

        def behave(asked, say):
            def flood(asked, piece, _):
                return [(*pieces(asked)[:1], content)] * 2000

            for frames in bodies(learner, asked, flood):
                say(*frames)

        with HostileSource(behave) as hostile, make_puller(chunk_bytes=4 << 20) as puller:
            memory = Memory(os.getpid())
            with pytest.raises(WeightsError):
                puller.pull(learner.update(hostile.source), soon(2.0))
            assert memory.growth() < 400 << 20


# --- sources that are not there ---------------------------------------------------------------------------------------


def test_the_next_source_is_asked_when_nobody_listens_at_the_first(learner):
    with make_puller() as puller:
        result = puller.pull(learner.update(NOBODY, learner.server.source), soon())
        assert learner.is_held_by(puller.store)
        assert result.source == learner.server.source.endpoint


def test_a_failure_names_every_source_and_what_it_did(learner):
    with make_puller() as puller, pytest.raises(WeightsError, match=r"tcp://127\.0\.0\.1:1: nobody listens there"):
        puller.pull(learner.update(NOBODY), soon(0.5))
