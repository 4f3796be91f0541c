"""What a store holds, gives and keeps."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.types import Manifest
from prolong.common.weights.buckets import PackedWeights, plan_buckets
from prolong.common.weights.pull import store as store_module
from prolong.common.weights.pull.catalog import Catalog, catalog_digest, decode_catalog, encode_catalog
from prolong.common.weights.pull.chunks import ChunkLayout
from prolong.common.weights.pull.store import NO_SESSION, ChunkStore, Deltas, Full, NotYet, Superseded

CHUNK = 256
MANIFEST = plan_buckets([("a", "bfloat16", [300]), ("b", "bfloat16", [200]), ("c", "float32", [100])], 1100)


def empty(manifest: Manifest = MANIFEST, **kwargs: bool) -> ChunkStore:
    buckets = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in manifest.buckets]
    return ChunkStore(ChunkLayout(manifest, CHUNK), buckets, **kwargs)


def weights(version: int, seed: int = 0) -> PackedWeights:
    rng = np.random.default_rng(seed)
    buckets = [torch.from_numpy(rng.integers(0, 256, bucket.num_bytes, dtype=np.uint8)) for bucket in MANIFEST.buckets]
    return PackedWeights(version=version, manifest=MANIFEST, buckets=buckets)


def next_version(base: PackedWeights, *elements: int, version: int | None = None) -> PackedWeights:
    """The version after `base`, with other bits in these elements of two bytes of bucket 0."""
    buckets = [flat.clone() for flat in base.buckets]
    for element in elements:
        buckets[0][2 * element] ^= 1
    return PackedWeights(version=base.version + 1 if version is None else version, manifest=MANIFEST, buckets=buckets)


def learner_of(*versions: PackedWeights) -> ChunkStore:
    store = empty()
    for packed in versions:
        store.advance(packed)
    return store


def begin(puller: ChunkStore, source: ChunkStore, version: int | None = None) -> list[int]:
    encoded = source.catalog(source.version if version is None else version)
    assert encoded is not None
    return puller.begin(encoded, decode_catalog(encoded, catalog_digest(encoded), len(puller.layout.chunks)))


def pull(puller: ChunkStore, source: ChunkStore) -> dict[int, str]:
    """Bring `puller` to the newest version; returns the kind of the answer for each chunk that was fetched."""
    kinds: dict[int, str] = {}
    for index in begin(puller, source):
        held = puller.held(index)
        have = held.version if held is not None and held.session == puller.session else None
        answer = source.answer(index, puller.session, have, source.version)
        kinds[index] = type(answer).__name__
        if isinstance(answer, Deltas):
            assert have is not None
            assert puller.put_deltas(index, have, answer.steps)
        else:
            assert isinstance(answer, Full)
            assert puller.put_full(index, source.version, answer.content)
    puller.finish(source.version)
    return kinds


def same(store: ChunkStore, packed: PackedWeights) -> bool:
    return all(torch.equal(flat, other) for flat, other in zip(store.buckets, packed.buckets, strict=True))


def test_a_newcomer_gets_full_chunks_and_then_deltas_of_what_changed() -> None:
    first = weights(0)
    second = next_version(first, 3, 130)
    learner, puller = learner_of(first), empty()
    assert puller.version == -1
    assert puller.session == NO_SESSION
    assert set(pull(puller, learner).values()) == {"Full"}
    assert same(puller, first)
    stats = learner.advance(second)
    assert (stats.num_changed, stats.num_full, stats.num_chunks, stats.full_bytes) == (2, 0, 6, 1408)
    assert stats.num_bytes < 50
    assert pull(puller, learner) == {0: "Deltas", 1: "Deltas"}
    assert same(puller, second)
    assert (puller.version, puller.session) == (1, learner.session)


def test_one_that_is_behind_gets_the_deltas_between_or_the_full_chunk_when_one_is_gone() -> None:
    first = weights(0)
    second = next_version(first, 1)
    third = next_version(second, 1, 2, version=5)
    learner, puller = learner_of(first), empty()
    pull(puller, learner)
    learner.advance(second)
    learner.advance(third)
    answer = learner.answer(0, learner.session, 0, 5)
    assert isinstance(answer, Deltas)
    assert [version for version, _ in answer.steps] == [1, 5]
    assert pull(puller, learner) == {0: "Deltas"}
    assert same(puller, third)
    for have in (None, 2, 3, 5, 9, -1):
        assert isinstance(learner.answer(0, learner.session, have, 5), Full)


def test_a_chunk_is_sent_in_full_once_its_deltas_are_larger() -> None:
    packed = weights(0)
    learner = learner_of(packed)
    for _ in range(200):
        packed = next_version(packed, *range(0, 128, 3))
        learner.advance(packed)
        kept = [sum(len(step.payload) for step in steps) for steps in learner._ring.steps]
        assert all(num_bytes < chunk.num_bytes for num_bytes, chunk in zip(kept, learner.layout.chunks, strict=True))
        assert max(len(steps) for steps in learner._ring.steps) <= 64
    assert isinstance(learner.answer(0, learner.session, packed.version - 2, packed.version), Deltas)
    assert isinstance(learner.answer(0, learner.session, packed.version - 30, packed.version), Full)


def test_a_large_change_is_sent_in_full_and_breaks_the_chain() -> None:
    learner, puller = learner_of(weights(0)), empty()
    pull(puller, learner)
    stats = learner.advance(weights(1, seed=1))
    assert (stats.num_full, stats.num_bytes) == (6, 1408)
    assert set(pull(puller, learner).values()) == {"Full"}
    assert same(puller, weights(1, seed=1))


def test_a_version_that_is_not_there_yet_and_one_that_is_no_longer_there() -> None:
    learner = learner_of(weights(0))
    assert isinstance(learner.answer(0, learner.session, 0, 1), NotYet)
    learner.advance(weights(1, seed=1))
    gone = learner.answer(0, learner.session, None, 0)
    assert isinstance(gone, Superseded)
    assert gone.newest == 1
    assert isinstance(learner.answer(0, b"x" * 16, None, 1), Superseded)
    relay = empty()
    assert isinstance(relay.answer(0, learner.session, None, 1), NotYet)


def test_an_older_version_is_given_whole_while_its_deltas_can_be_undone() -> None:
    versions = [weights(0)]
    learner = learner_of(versions[0])
    for number in range(1, 5):
        versions.append(next_version(versions[-1], number, 5, 9))
        learner.advance(versions[-1])
    for target, packed in enumerate(versions):
        for index in range(len(learner.layout.chunks)):
            answer = learner.answer(index, learner.session, None, target)
            assert isinstance(answer, Full)
            assert answer.content == learner.layout.view(packed.buckets, index).numpy().tobytes()
    assert same(learner, versions[-1])
    learner.advance(weights(5, seed=1))
    assert isinstance(learner.answer(0, learner.session, None, 4), Superseded)


def test_an_older_version_is_still_reached_by_deltas() -> None:
    first = weights(0)
    learner, puller = learner_of(first), empty()
    pull(puller, learner)
    second = next_version(first, 1)
    learner.advance(second)
    learner.advance(next_version(second, 2))
    assert begin(puller, learner, 1) == [0]
    answer = learner.answer(0, learner.session, 0, 1)
    assert isinstance(answer, Deltas)
    assert puller.put_deltas(0, 0, answer.steps)
    puller.finish(1)
    assert same(puller, second)


def test_a_restarted_learner_sends_only_what_differs() -> None:
    first = weights(7)
    learner, puller = learner_of(first), empty()
    pull(puller, learner)
    again = learner_of(PackedWeights(version=7, manifest=MANIFEST, buckets=first.buckets))
    assert again.session != learner.session
    assert begin(puller, again) == []
    puller.finish(7)
    assert puller.session == again.session
    other = learner_of(next_version(first, 3, version=5))
    assert pull(puller, other) == {0: "Full"}
    assert puller.version == 5


def test_a_relay_serves_a_chunk_as_soon_as_it_has_it() -> None:
    first = weights(0)
    learner, relay, puller = learner_of(first), empty(), empty()
    pull(relay, learner)
    pull(puller, relay)
    second = next_version(first, 1, 130)
    learner.advance(second)
    heard: list[int] = []
    relay.subscribe(lambda: heard.append(relay.version))
    assert isinstance(relay.answer(0, learner.session, 0, 1), NotYet)
    missing = begin(relay, learner)
    assert missing == [0, 1]
    assert relay.catalog(1) == learner.catalog(1)
    assert isinstance(relay.answer(0, learner.session, 0, 1), NotYet)
    answer = learner.answer(0, learner.session, 0, 1)
    assert isinstance(answer, Deltas)
    assert relay.put_deltas(0, 0, answer.steps)
    assert relay.version == 0
    assert isinstance(relay.answer(0, learner.session, 0, 1), Deltas)
    assert isinstance(relay.answer(1, learner.session, 0, 1), NotYet)
    assert isinstance(relay.answer(5, learner.session, 0, 1), Deltas)
    pull(relay, learner)
    assert pull(puller, relay) == {0: "Deltas", 1: "Deltas"}
    assert same(puller, second)
    assert len(heard) >= 4


def test_a_wrong_delta_makes_the_chunk_absent_until_it_comes_in_full() -> None:
    first = weights(0)
    learner, puller = learner_of(first), empty()
    pull(puller, learner)
    learner.advance(next_version(first, 1))
    assert begin(puller, learner) == [0]
    good = learner.answer(0, learner.session, 0, 1)
    assert isinstance(good, Deltas)
    payload = bytearray(good.steps[0][1])
    payload[-1] ^= 1
    assert not puller.put_deltas(0, 0, [(1, bytes(payload))])
    assert puller.held(0) is None
    assert isinstance(puller.answer(0, learner.session, 0, 1), NotYet)
    with pytest.raises(WeightsError, match="held as None"):
        puller.put_deltas(0, 0, good.steps)
    full = learner.answer(0, learner.session, None, 1)
    assert isinstance(full, Full)
    assert not puller.put_full(0, 1, full.content[:-1])
    assert not puller.put_full(0, 1, bytes(len(full.content)))
    with pytest.raises(WeightsError, match="not complete: 1 of 6"):
        puller.finish(1)
    assert puller.put_full(0, 1, memoryview(full.content))
    puller.finish(1)
    assert same(puller, next_version(first, 1))


def test_a_malformed_delta_counts_as_wrong() -> None:
    first = weights(0)
    learner, puller = learner_of(first), empty()
    pull(puller, learner)
    learner.advance(next_version(first, 1))
    begin(puller, learner)
    assert not puller.put_deltas(0, 0, [(1, b"\x09\x00\x00\x00\x00nonsense")])
    assert puller.held(0) is None


def test_deltas_that_lead_from_or_to_another_version_are_refused() -> None:
    first = weights(0)
    learner, puller = learner_of(first), empty()
    pull(puller, learner)
    learner.advance(next_version(first, 1))
    begin(puller, learner)
    for base, steps in ((0, []), (0, [(2, b"")]), (3, [(1, b"")]), (0, [(0, b""), (1, b"")]), (-1, [(1, b"")])):
        with pytest.raises(WeightsError, match="deltas over versions"):
            puller.put_deltas(0, base, steps)
    assert puller.held(0) == (learner.session, 0)
    with pytest.raises(WeightsError, match="chunk of version 2"):
        puller.put_full(0, 2, bytes(CHUNK))


def test_an_answer_that_comes_twice_changes_nothing() -> None:
    first = weights(0)
    learner, puller = learner_of(first), empty()
    pull(puller, learner)
    second = next_version(first, 1)
    learner.advance(second)
    begin(puller, learner)
    answer = learner.answer(0, learner.session, 0, 1)
    assert isinstance(answer, Deltas)
    for _ in range(3):
        assert puller.put_deltas(0, 0, answer.steps)
        assert same(puller, second)
    assert len(puller._ring.steps[0]) == 1
    puller.finish(1)


def test_bits_that_flipped_in_memory_are_found_and_fetched_again() -> None:
    first = weights(0)
    learner, puller = learner_of(first), empty()
    pull(puller, learner)
    puller.buckets[1][300] ^= 4
    assert pull(puller, learner) == {5: "Full"}, "the version was complete, and comes again"
    assert same(puller, first)
    puller.buckets[1][300] ^= 4
    assert puller.recheck() == [5]
    assert isinstance(puller.answer(5, learner.session, None, 0), NotYet)


def test_a_bit_that_flipped_at_the_learner_is_part_of_the_next_delta() -> None:
    first = weights(0)
    learner, puller = learner_of(first), empty()
    learner.buckets[0][40] ^= 1
    missing = begin(puller, learner)
    answers = [learner.answer(index, learner.session, None, 0) for index in missing]
    fine = [isinstance(answer, Full) and puller.put_full(index, 0, answer.content) for index, answer in enumerate(answers)]
    assert fine == [False, True, True, True, True, True]
    second = next_version(first, 200)
    learner.advance(second)
    pull(puller, learner)
    assert same(puller, second)


def test_two_catalogs_of_one_version_are_not_confused() -> None:
    puller = empty()
    catalogs = [Catalog(session=b"s" * 16, version=1, digests=bytes([fill]) * 96) for fill in range(2)]
    first = learner_of(weights(1))
    begin(puller, first)
    answer = first.answer(0, first.session, None, 1)
    assert isinstance(answer, Full)
    assert puller.put_full(0, 1, answer.content)
    forged = Catalog(session=first.session, version=1, digests=bytes(96))
    assert 0 in puller.begin(encode_catalog(forged), forged)
    assert puller.held(0) is None
    assert puller.begin(encode_catalog(catalogs[0]), catalogs[0]) == list(range(6))
    older = Catalog(session=b"s" * 16, version=0, digests=bytes(96))
    with pytest.raises(WeightsError, match="at 1 already"):
        puller.begin(encode_catalog(older), older)


def test_what_cannot_be_a_next_version_is_refused() -> None:
    learner = learner_of(weights(3))
    with pytest.raises(WeightsError, match="at 3 already"):
        learner.advance(weights(3))
    other = plan_buckets([("a", "bfloat16", [300])], 1100)
    with pytest.raises(WeightsError, match="another manifest"):
        learner.advance(PackedWeights(version=4, manifest=other, buckets=learner.buckets))
    with pytest.raises(WeightsError, match="before the first catalog"):
        empty().put_full(0, 0, bytes(CHUNK))
    with pytest.raises(ValueError, match="the manifest says"):
        ChunkStore(ChunkLayout(MANIFEST, CHUNK), [])


def test_a_store_that_serves_nobody_keeps_no_deltas() -> None:
    first = weights(0)
    learner, puller = learner_of(first), empty(keep_deltas=False)
    pull(puller, learner)
    learner.advance(next_version(first, 1))
    pull(puller, learner)
    assert all(not steps for steps in puller._ring.steps)
    assert isinstance(puller.answer(0, learner.session, 0, 1), Full)


class Reader:
    """Asks a store for every chunk of each version that it has a catalog of, and compares what comes with the catalog."""

    def __init__(self, store: ChunkStore) -> None:
        self.store, self.read = store, Counter[str]()

    def look(self) -> None:
        for version in range(max(0, self.store.version - 1), self.store.version + 2):
            encoded = self.store.catalog(version)
            if encoded is None:
                continue
            catalog = decode_catalog(encoded, catalog_digest(encoded), len(self.store.layout.chunks))
            for index in range(len(self.store.layout.chunks)):
                answer = self.store.answer(index, catalog.session, None, version)
                self.read[type(answer).__name__] += 1
                if isinstance(answer, Full):
                    assert sha256(answer.content).digest()[:16] == catalog.digest(index), (index, version)


def test_no_chunk_is_read_while_it_is_written_at_a_learner_or_at_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader comes after every write, before the writer has said that it is done; deltas, full chunks, wrong ones."""
    first = weights(0)
    learner, relay = learner_of(first), empty()
    readers = [Reader(learner), Reader(relay)]

    def watched(write: Callable[..., object]) -> Callable[..., object]:
        def write_and_look(*args: object, undo: bool = False) -> object:
            if undo:
                # a reader's own copy
                return write(*args, undo=True)
            done = write(*args)
            for reader in readers:
                reader.look()
            return done

        return write_and_look

    pull(relay, learner)
    monkeypatch.setattr(store_module, "apply_delta", watched(store_module.apply_delta))
    monkeypatch.setattr(np, "copyto", watched(np.copyto))
    packed = first
    for version in range(1, 6):
        packed = weights(version, seed=version) if version == 3 else next_version(packed, *range(version, 400, 40))
        learner.advance(packed)
        index = begin(relay, learner)[0]
        assert not relay.put_full(index, version, bytes(relay.layout.chunks[index].num_bytes))
        pull(relay, learner)
    assert same(relay, packed)
    for reader in readers:
        assert reader.read["Full"] > 100
        assert reader.read["NotYet"] > 0


def test_an_older_version_is_not_called_gone_while_a_learner_writes_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first = weights(0)
    learner, copy = learner_of(first), np.copyto
    found: list[type] = []

    def copy_and_look(*args: object) -> None:
        copy(*args)  # pyright: ignore[reportArgumentType, reportCallIssue]
        found.append(type(learner.answer(0, learner.session, None, 0)))

    monkeypatch.setattr(np, "copyto", copy_and_look)
    learner.advance(next_version(first, 1))
    assert found == [NotYet]
    assert isinstance(learner.answer(0, learner.session, None, 0), Full)


def test_readers_in_other_threads_never_see_a_torn_chunk() -> None:
    packed = weights(0)
    learner, relay = learner_of(packed), empty()
    pull(relay, learner)
    readers = [Reader(learner), Reader(relay)]
    stopped, failed = threading.Event(), list[AssertionError]()

    def look_until(reader: Reader) -> None:
        try:
            while not stopped.is_set():
                reader.look()
        except AssertionError as error:
            failed.append(error)

    threads = [threading.Thread(target=look_until, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for version in range(1, 13):
        packed = weights(version, seed=version) if version % 3 == 0 else next_version(packed, *range(version % 5, 400, 40))
        learner.advance(packed)
        pull(relay, learner)
    stopped.set()
    for thread in threads:
        thread.join(60)
    assert failed == []


def test_several_threads_encode_what_one_does() -> None:
    """Not the same bytes: igzip chooses among equal codes by what its memory held before."""
    first = weights(0)
    second = next_version(first, *range(0, 200, 7))
    for threads in (1, 4):
        learner, puller = learner_of(first), empty()
        pull(puller, learner)
        learner._threads = threads
        assert learner.advance(second).num_changed == 2
        assert pull(puller, learner) == {0: "Deltas", 1: "Deltas"}
        assert same(puller, second)


def test_the_deltas_of_a_model_never_take_more_memory_than_it_does_even_while_one_is_encoded() -> None:
    """Deltas of nearly the size of their chunks: each takes the place of the one before, not a place beside it."""
    packed = weights(0)
    learner = learner_of(packed)
    most = [0]

    def note() -> None:
        most[0] = max(most[0], sum(len(step.payload) for steps in learner._ring.steps for step in steps))

    learner.subscribe(note)
    keep = learner._ring.keep
    learner._ring.keep = lambda index, step: (keep(index, step), note())[0]  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(5):
        packed = next_version(packed, *range(0, 500, 3))
        assert learner.advance(packed).num_full == 0
    assert 100 < most[0] < learner.layout.num_bytes
