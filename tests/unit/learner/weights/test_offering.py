"""The learner's offers against a scripted buffer and a server without a socket. Waits are for events, not for times."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import ConfigError, RunStopped, WeightsError
from prolong.common.messages import Offer, OfferNoted, SyncRequested, WeightReaders, Welcome
from prolong.common.types import WeightSource
from prolong.common.weights.buckets import PackedWeights
from prolong.common.weights.pull.catalog import catalog_digest, chunk_digest, decode_catalog
from prolong.common.weights.pull.store import ChunkStore, Deltas
from prolong.learner.weights import offering as offering_module
from prolong.learner.weights.offering import MAX_ERRORS
from prolong.learner.weights.packer import WeightPacker

from tests.support.offers import HANG_S, OfferingScene
from tests.support.runs import wait_until

SPECS = [("weight", torch.float32, (64, 64)), ("scale", torch.bfloat16, (48,)), ("head", torch.bfloat16, (64, 64))]
SOURCE = WeightSource(endpoint="tcp://127.0.0.1:1234")
ADVANCE = ChunkStore.advance


class SocketlessServer:
    """What an offering uses of a WeightServer."""

    opened: queue.Queue[SocketlessServer]
    error: Exception | None = None  # of the constructor

    def __init__(self, host: str, port: int, keys: object, pace: object) -> None:
        if self.error is not None:
            raise self.error
        self.source, self.counters = SOURCE, Counter({"weights/sent_bytes": 7})
        self.keys: list[str] = []
        self.store: ChunkStore | None = None
        self.is_running = self.closed = False
        self.opened.put(self)

    def admit(self, keys: list[str]) -> None:
        self.keys = keys

    def serve(self, store: ChunkStore | None) -> None:
        self.store = store

    def start(self) -> None:
        self.is_running = True

    def close(self) -> None:
        self.closed = True


class Scene(OfferingScene):
    """Weights of SPECS, and servers without sockets."""

    def __init__(self, cfg: WeightsConfig) -> None:
        super().__init__(cfg, WeightPacker(SPECS, 9000))

    def publish_version(self, version: int) -> PackedWeights:
        """Publish; returns weights of the same content."""
        tensors = tensors_of(version)
        self.publish(version, tensors)
        return WeightPacker(SPECS, 9000).pack(version, tensors)

    def server(self) -> SocketlessServer:
        """The one that was opened last."""
        return SocketlessServer.opened.get(timeout=HANG_S)


def readers(num_pullers: int, *keys: str) -> WeightReaders:
    return WeightReaders(num_pullers=num_pullers, keys=list(keys))


def tensors_of(version: int) -> list[tuple[str, torch.Tensor]]:
    """A few elements differ from version to version."""
    named = [(name, torch.ones(shape, dtype=dtype)) for name, dtype, shape in SPECS]
    for _, tensor in named:
        tensor.view(-1)[version % 5 :: 11] += version
    return named


def assert_serves(server: SocketlessServer, offer: Offer, weights: PackedWeights) -> None:
    """The store holds these weights, its catalog is the offer's, and the offer tells their checksums."""
    store = server.store
    assert store is not None
    assert offer.checksums == weights.checksums()
    assert all(torch.equal(held, flat) for held, flat in zip(store.buckets, weights.buckets, strict=True))
    encoded = store.catalog(offer.version)
    assert encoded is not None
    assert catalog_digest(encoded) == offer.catalog
    catalog = decode_catalog(encoded, offer.catalog, len(store.layout.chunks))
    views = [store.layout.view(weights.buckets, index) for index in range(len(store.layout.chunks))]
    assert [catalog.digest(index) for index in range(len(views))] == [chunk_digest(view) for view in views]


@pytest.fixture(autouse=True)
def without_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering_module, "WeightServer", SocketlessServer)
    monkeypatch.setattr(offering_module, "POLL_S", 0.01)
    monkeypatch.setattr(offering_module, "RETRY_S", 0.01)
    monkeypatch.setattr(SocketlessServer, "opened", queue.Queue(), raising=False)


@pytest.fixture(params=["collective", "pull"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(WeightsConfig(transport=request.param))
    scene.offering.start()
    yield scene
    scene.offering.close()


@pytest.fixture
def alone() -> Iterator[Scene]:
    """Where all actors pull."""
    scene = Scene(WeightsConfig(transport="pull"))
    scene.offering.start()
    yield scene
    scene.offering.close()


class HeldStore:
    """Lets a test hold `ChunkStore.advance`, and fail it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered: queue.Queue[int] = queue.Queue()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.errors: list[Exception] = []
        monkeypatch.setattr(ChunkStore, "advance", self.advance_for())

    def advance_for(self) -> Any:
        def advance(store: ChunkStore, weights: PackedWeights) -> Any:
            self.entered.put(weights.version)
            assert self.may_go_on.wait(HANG_S)
            if self.errors:
                raise self.errors.pop()
            return ADVANCE(store, weights)

        return advance


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldStore:
    return HeldStore(monkeypatch)


def test_every_version_is_offered_with_its_catalog_and_checksums_and_as_a_delta_of_the_one_before(scene: Scene) -> None:
    scene.say(readers(1, "k" * 40))
    first = scene.publish_version(3)
    offer, server = scene.heard(), scene.server()
    assert (offer.generation, offer.version, offer.source, offer.manifest) == (1, 3, SOURCE, scene.packer.manifest)
    assert server.is_running
    assert server.keys == ["k" * 40]
    assert_serves(server, offer, first)
    second = scene.publish_version(4)
    assert_serves(server, scene.heard(), second)
    assert server.store is not None
    assert isinstance(server.store.answer(0, server.store.session, 3, 4), Deltas)
    metrics = scene.offering.metrics()
    assert metrics["weights/full_bytes"] == sum(flat.numel() for flat in first.buckets)
    assert 0 < metrics["weights/delta_bytes"] < metrics["weights/full_bytes"]
    assert metrics["weights/changed"] == 1.0
    assert metrics["weights/encode_cpu_s"] > 0
    # counted once they are sent
    wait_until("both offers are counted", lambda: scene.offering.metrics()["weights/offered"] == 2, HANG_S)
    assert metrics["weights/skipped"] == 0
    assert metrics["weights/sent_bytes"] == 7


def test_while_nobody_pulls_nothing_is_encoded_and_no_copy_is_kept(scene: Scene, held: HeldStore) -> None:
    scene.publish_version(0)
    scene.publish_version(1)
    newest = scene.publish_version(2)
    assert held.entered.empty()
    scene.say(readers(1))
    offer = scene.heard()
    assert offer.version == 2, "who comes late gets the newest at once"
    assert_serves(scene.server(), offer, newest)
    assert held.entered.get() == 2
    scene.say(readers(0))
    scene.publish_version(3)
    scene.say(readers(2))
    assert scene.heard().version == 3
    assert scene.offering.metrics()["weights/skipped"] == 0, "nobody missed them"


def test_a_run_that_broadcasts_opens_no_socket_before_somebody_pulls() -> None:
    scene = Scene(WeightsConfig())
    scene.offering.start()
    scene.publish_version(0)
    scene.offering.close()
    assert SocketlessServer.opened.empty()
    assert scene.offering.metrics() == {}


def test_where_all_pull_the_socket_is_open_at_once_and_its_error_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(WeightsConfig(transport="pull"))
    scene.offering.start()
    assert scene.server().is_running
    assert "weights/offered" in scene.offering.metrics()
    scene.offering.close()
    monkeypatch.setattr(SocketlessServer, "error", ConfigError("weights.port = 80: taken"))
    with pytest.raises(ConfigError, match=r"weights\.port"):
        Scene(WeightsConfig(transport="pull")).offering.start()


def test_the_copy_goes_some_time_after_the_last_puller_and_the_next_one_begins_a_session(
    alone: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.say(readers(1))
    alone.publish_version(0)
    alone.heard()
    server = alone.server()
    assert server.store is not None
    session, gone = server.store.session, threading.Event()
    monkeypatch.setattr(server, "serve", lambda store: gone.set() if store is None else setattr(server, "store", store))
    monkeypatch.setattr(offering_module, "KEPT_S", 0.0)
    alone.say(readers(0))
    assert gone.wait(HANG_S)
    alone.say(readers(1))
    assert alone.heard().version == 0
    assert server.store.session != session


def test_versions_that_come_while_one_is_encoded_are_skipped_but_for_the_newest(scene: Scene, held: HeldStore) -> None:
    scene.say(readers(1))
    held.may_go_on.clear()
    scene.publish_version(0)
    assert held.entered.get(timeout=HANG_S) == 0
    for version in (1, 2, 3):
        newest = scene.publish_version(version)
    held.may_go_on.set()
    offers = [scene.heard(), scene.heard()]
    assert [offer.version for offer in offers] == [0, 3]
    assert_serves(scene.server(), offers[1], newest)
    assert scene.offering.metrics()["weights/skipped"] == 2


def test_packed_weights_are_not_overwritten_while_they_are_encoded_and_two_versions_are_enough(
    alone: Scene, held: HeldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: set[int] = set()
    pack = alone.packer.pack

    def noting(*args: Any) -> PackedWeights:
        packed = pack(*args)
        kept.update(flat.data_ptr() for flat in packed.buckets)
        return packed

    monkeypatch.setattr(alone.packer, "pack", noting)
    alone.say(readers(1))
    held.may_go_on.clear()
    first = alone.publish_version(0)
    held.entered.get(timeout=HANG_S)
    for version in range(1, 6):
        alone.publish_version(version)
    held.may_go_on.set()
    assert alone.heard().checksums == first.checksums()
    assert alone.heard().version == 5
    for version in range(6, 9):
        alone.publish_version(version)
        alone.heard()
    assert len(kept) == 2 * len(alone.packer.manifest.buckets)


def test_a_buffer_that_welcomes_the_learner_again_is_offered_the_same_in_its_generation(scene: Scene) -> None:
    scene.say(readers(1))
    scene.publish_version(0)
    first = scene.heard()
    scene.welcome = Welcome(generation=2, heartbeat_s=1.0, lease_s=1.0, version=0)
    again = scene.heard()
    assert (again.generation, again.version, again.catalog) == (2, 0, first.catalog)
    scene.publish_version(1)
    assert scene.heard().generation == 2


def test_the_offer_is_repeated_when_the_buffer_asks_for_weights(alone: Scene) -> None:
    alone.say(readers(1))
    alone.publish_version(0)
    alone.heard()
    alone.say(SyncRequested(reason="actor-0 lacks weights"))
    assert alone.heard().version == 0
    alone.offering.offer_again()
    assert alone.heard().version == 0


def test_the_answer_to_an_offer_is_waited_for_by_version(alone: Scene) -> None:
    alone.say(readers(1))
    alone.publish_version(0)
    alone.heard()
    assert not alone.offering.wait_noted(0, 0.0)
    alone.say(OfferNoted(version=0))
    assert alone.offering.wait_noted(0, HANG_S)


def test_keys_are_admitted_and_taken_back_as_pullers_come_and_go(alone: Scene) -> None:
    server = alone.server()
    alone.say(readers(2, "a" * 40, "b" * 40))
    alone.publish_version(0)
    alone.heard()
    assert server.keys == ["a" * 40, "b" * 40]
    alone.say(readers(1, "b" * 40), SyncRequested(reason="so that there is an event to wait for"))
    alone.heard()
    assert server.keys == ["b" * 40]


def test_an_error_costs_a_session_but_no_version_and_is_counted(scene: Scene, held: HeldStore) -> None:
    scene.say(readers(1))
    scene.publish_version(0)
    scene.heard()
    server = scene.server()
    assert server.store is not None
    session = server.store.session
    held.errors.append(torch.OutOfMemoryError("no memory"))
    weights = scene.publish_version(1)
    offer = scene.heard()
    assert_serves(server, offer, weights)
    assert server.store.session != session
    assert scene.offering.metrics()["weights/offer_errors"] == 1


@pytest.mark.parametrize("transport", ["collective", "pull"])
def test_errors_in_a_row_end_the_run_only_where_there_is_no_other_way_to_the_actors(
    transport: str, held: HeldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offering_module, "MAX_RETRY_S", 0.01)
    scene = Scene(WeightsConfig(transport=transport))
    held.errors += [RuntimeError("no memory")] * MAX_ERRORS
    scene.offering.start()
    scene.say(readers(1))
    scene.publish_version(0)
    scene.offering._thread.join(HANG_S)
    assert isinstance(scene.offering.error, WeightsError)
    if transport == "pull":
        with pytest.raises(WeightsError, match=r"10 versions in a row could not be offered \(last: no memory"):
            scene.publish_version(1)
    else:
        scene.publish_version(1)
    scene.offering.close()


def test_a_wrong_setting_ends_the_offers_of_a_run_that_broadcasts_with_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SocketlessServer, "error", ConfigError("weights.host = 10.0.0.1: expected keys"))
    scene = Scene(WeightsConfig())
    scene.offering.start()
    scene.say(readers(1))
    scene.publish_version(0)
    scene.offering._thread.join(HANG_S)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "weights can no longer be pulled: weights cannot be served: weights.host = 10.0.0.1: expected keys"
    ]
    scene.publish_version(1)
    scene.offering.close()


def test_a_server_whose_thread_failed_is_replaced_and_the_newest_weights_are_offered_there(scene: Scene) -> None:
    scene.say(readers(1, "k" * 40))
    weights = scene.publish_version(0)
    scene.heard()
    scene.server().is_running = False
    offer, server = scene.heard(), scene.server()
    assert_serves(server, offer, weights)
    assert server.keys == ["k" * 40]


def test_a_thread_that_dies_of_something_unforeseen_says_so(alone: Scene, caplog: pytest.LogCaptureFixture) -> None:
    alone.say(KeyError("a bug"))
    alone.offering._thread.join(HANG_S)
    with pytest.raises(WeightsError, match="thread that offers weights ended: KeyError: 'a bug'"):
        alone.publish_version(0)
    assert "weights can no longer be pulled" in caplog.text


def test_the_end_of_the_run_ends_the_thread_without_noise(alone: Scene, caplog: pytest.LogCaptureFixture) -> None:
    alone.say(RunStopped("the run is over"))
    alone.offering._thread.join(HANG_S)
    assert not caplog.records


def test_close_does_not_wait_for_an_encoder_that_is_busy(
    alone: Scene, held: HeldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offering_module, "CLOSE_S", 0.01)
    alone.say(readers(1))
    held.may_go_on.clear()
    alone.publish_version(0)
    held.entered.get(timeout=HANG_S)
    alone.offering.close()
    assert alone.server().closed
    held.may_go_on.set()
    alone.offering._thread.join(HANG_S)


def test_an_offering_that_was_never_started_closes() -> None:
    Scene(WeightsConfig()).offering.close()
