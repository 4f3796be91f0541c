"""Broadcasts by NCCL without a GPU: the real ends over a library that moves bytes between threads, and its faults."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import WeightsError
from prolong.common.messages import PublishPlan, UpdateWeights
from prolong.common.weights import collective, collective_group, nccl
from prolong.common.weights.buckets import PackedWeights, fill_bucket, plan_buckets
from prolong.common.weights.collective import CollectiveTransport
from prolong.common.weights.collective_group import Medium, Presence, WeightsGroup, WeightsStore, medium_for

from tests.support.fake_nccl import FakeNccl
from tests.support.hand_clock import HandClock
from tests.support.runs import wait_until

CPU = torch.device("cpu")
PHASE_S, HANG_S, NEVER_S = 30.0, 60.0, 600.0
LATE_S = 3 * PHASE_S  # beyond every deadline of a phase, and not beyond NEVER_S
MANIFEST = plan_buckets([("a", "float32", (4,)), ("b", "float32", (16,)), ("c", "float32", (8,))], 32)


class Scene:
    """A learner's end and the ends of two actors, each on a GPU of its own as far as they know."""

    def __init__(self, library: FakeNccl, monkeypatch: pytest.MonkeyPatch) -> None:
        self.library, self.gpus = library, ["GPU-0", "GPU-1", "GPU-2"]
        monkeypatch.setattr(nccl, "nccl_library", lambda: library)
        monkeypatch.setattr(nccl, "recorded_event", library.recorded_event)
        monkeypatch.setattr(nccl, "ABORT_S", 0.3)
        monkeypatch.setattr(collective_group, "presence_on", self.presence_on)
        self.learner = CollectiveTransport().open_learner_end(WeightsConfig(timeout_s=PHASE_S), CPU)
        self.actors = [CollectiveTransport().open_actor_end(CPU) for _ in range(2)]
        self.pool = ThreadPoolExecutor(4)
        self.local = threading.local()

    def presence_on(self, device: torch.device, digest: str) -> Presence:
        return Presence(digest=digest, gpu=self.gpus[getattr(self.local, "rank", 0)], nccl=self.library.version)

    def download(self, place: int, update: UpdateWeights, phase_s: float) -> list[list[float]]:
        self.local.rank = place + 1
        with closing(self.actors[place].download(update, phase_s)) as buckets:
            return [flat.view(torch.float32).tolist() for flat in buckets]

    def broadcast(
        self, version: int, epoch: int, *, members: int = 2, phase_s: float = PHASE_S, actor_phase_s: float = 0.0
    ) -> list[list[list[float]]]:
        """Send `version` to the first actors; what each received."""
        plan = PublishPlan(generation=1, version=version, epoch=epoch, members=[f"actor-{i}" for i in range(members)])
        downloads = []
        for place in range(members):
            update = UpdateWeights(
                generation=1,
                version=version,
                epoch=epoch,
                member=place,
                num_members=members,
                rendezvous=self.learner.rendezvous,
                manifest=MANIFEST,
            )
            downloads.append(self.pool.submit(self.download, place, update, actor_phase_s or phase_s))
        try:
            self.learner.publish(plan, weights(version), phase_s)
        finally:
            self.downloads = downloads
        return [download.result(HANG_S) for download in downloads]

    def late_after(self, clock: HandClock, num_broadcasts: int = 0, num_communicators: int = 0) -> None:
        """The time of a phase is over as soon as so many broadcasts and communicators were begun."""

        def begun() -> bool:
            library = self.library
            return library.num_broadcasts >= num_broadcasts and library.num_communicators >= num_communicators

        def pass_by() -> None:
            wait_until("every rank waits", begun, HANG_S)
            clock.now += LATE_S

        self.pool.submit(pass_by)

    def close(self) -> None:
        self.library.release()
        self.learner.close()
        for end in self.actors:
            end.close()
        self.pool.shutdown()


def weights(version: int) -> PackedWeights:
    shapes = {spec.name: spec.shape for bucket in MANIFEST.buckets for spec in bucket.tensors}
    tensors = {name: torch.full(shape, float(version)) for name, shape in shapes.items()}
    return PackedWeights(version=version, manifest=MANIFEST, buckets=[fill_bucket(b, tensors) for b in MANIFEST.buckets])


def values(version: int) -> list[list[float]]:
    return [[float(version)] * (bucket.num_bytes // 4) for bucket in MANIFEST.buckets]


@pytest.fixture
def library() -> FakeNccl:
    return FakeNccl()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """Of the deadlines: they pass when the test says so, however busy the machine is."""
    return HandClock.of(monkeypatch, nccl, collective_group)


@pytest.fixture
def scene(library: FakeNccl, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(library, monkeypatch)
    yield scene
    scene.close()


def test_members_with_a_gpu_each_get_every_bucket_by_nccl_in_one_communicator_per_epoch(scene: Scene) -> None:
    for version, epoch in ((1, 1), (2, 1), (3, 2)):
        assert scene.broadcast(version, epoch) == [values(version)] * 2
    assert scene.library.num_communicators == 2 * 3, "of two epochs and three ranks"
    assert scene.library.num_broadcasts == 3 * 3 * len(MANIFEST.buckets)


def test_two_members_on_one_gpu_get_the_weights_through_host_memory(scene: Scene) -> None:
    """NCCL refuses two ranks on one GPU: this is how a learner and an actor share one."""
    scene.gpus = ["GPU-0", "GPU-0", "GPU-2"]
    assert scene.broadcast(1, 1) == [values(1)] * 2
    assert scene.library.num_communicators == 0


@pytest.mark.parametrize(
    ("ranks", "medium"),
    [
        ([("GPU-a", 1), ("GPU-b", 1)], Medium.nccl),
        ([("GPU-a", 1), ("GPU-a", 1)], Medium.host),
        ([("GPU-a", 1), ("", 0)], Medium.host),
        ([("GPU-a", 1), ("GPU-b", 2)], Medium.host),
        ([("", 0), ("", 0)], Medium.host),
    ],
    ids=["a GPU each", "one GPU for two", "one has none", "two versions of NCCL", "no GPU at all"],
)
def test_nccl_is_chosen_only_where_it_can_work(ranks: list[tuple[str, int]], medium: Medium) -> None:
    assert medium_for([Presence(digest="", gpu=gpu, nccl=version) for gpu, version in ranks]) is medium


def test_a_broadcast_that_never_ends_is_an_error_at_its_deadline_and_the_next_epoch_works(
    scene: Scene, clock: HandClock
) -> None:
    scene.library.hang_broadcasts = True
    scene.late_after(clock, num_broadcasts=3)
    with pytest.raises(WeightsError, match=r"the broadcast did not end within 30 s"):
        scene.broadcast(1, 1)
    assert all(isinstance(download.exception(HANG_S), WeightsError) for download in scene.downloads)
    # only that ends what hangs on a GPU
    wait_until("each rank aborted", lambda: scene.library.num_aborts == 3, HANG_S)
    scene.library.hang_broadcasts = False
    assert scene.broadcast(2, 2) == [values(2)] * 2


def test_a_member_that_dies_before_it_connects_is_an_error_at_the_deadline(scene: Scene, clock: HandClock) -> None:
    scene.library.hang_connections = True
    scene.late_after(clock, num_communicators=3)
    with pytest.raises(WeightsError, match=r"did not meet the others .*the other ranks did not connect"):
        scene.broadcast(1, 1)
    assert all(isinstance(download.exception(HANG_S), WeightsError) for download in scene.downloads)
    wait_until("each rank aborted", lambda: scene.library.num_aborts == 3, HANG_S)
    scene.library.hang_connections = False
    assert scene.broadcast(1, 2) == [values(1)] * 2


@pytest.mark.parametrize("fault", ["raise_in_broadcast", "raise_in_state", "raise_in_event"])
def test_an_error_of_nccl_or_of_the_gpu_is_an_error_of_the_weights(scene: Scene, fault: str) -> None:
    setattr(scene.library, fault, True)
    with pytest.raises(WeightsError, match=r"unhandled cuda error|rank \d gave up"):
        scene.broadcast(1, 1)
    setattr(scene.library, fault, False)
    assert scene.broadcast(2, 2) == [values(2)] * 2


@pytest.mark.parametrize("fault", ["raise_in_abort", "hang_aborts"])
def test_an_abort_that_fails_or_hangs_neither_raises_nor_holds_the_next_epoch_up(scene: Scene, fault: str) -> None:
    setattr(scene.library, fault, True)
    assert scene.broadcast(1, 1) == [values(1)] * 2
    scene.learner.disconnect()
    assert scene.broadcast(2, 2) == [values(2)] * 2
    assert scene.library.num_aborts >= 1


def test_nccl_that_fails_again_and_again_is_given_up_for_host_memory(scene: Scene, clock: HandClock) -> None:
    scene.library.hang_connections = True
    for epoch in range(collective.MAX_NCCL_FAILURES):
        scene.late_after(clock, num_communicators=3 * (epoch + 1))
        with pytest.raises(WeightsError):
            scene.broadcast(0, epoch)
        for download in scene.downloads:
            download.exception(HANG_S)
    for epoch in (100, 101):
        assert scene.broadcast(epoch, epoch) == [values(epoch)] * 2


def test_a_group_that_is_left_ends_a_broadcast_that_hangs_in_another_thread(
    library: FakeNccl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nccl, "recorded_event", library.recorded_event)
    library.hang_broadcasts = True
    channel = nccl.NcclChannel(library, CPU)
    channel.connect(library.unique_id(), 0, 1, PHASE_S)
    with ThreadPoolExecutor(1) as pool:
        hangs = pool.submit(channel.broadcast, torch.zeros(16, dtype=torch.uint8), 600.0)
        assert library.begun.wait(HANG_S)
        channel.abort()
        assert "left" in str(hangs.exception(HANG_S))


def test_rank_0_hears_of_a_member_that_gives_up_while_it_waits_for_the_broadcast(library: FakeNccl, scene: Scene) -> None:
    store = WeightsStore.listen("127.0.0.1", timeout_s=PHASE_S)

    def join(rank: int) -> WeightsGroup:
        scene.local.rank = rank
        where = {"generation": 1, "epoch": 1, "rank": rank, "world_size": 2, "device": CPU, "timeout_s": NEVER_S}
        return WeightsGroup.join(store.host, store.port, **where)

    learner, actor = scene.pool.map(join, range(2))
    library.hang_broadcasts = True
    hangs = scene.pool.submit(learner.broadcast, torch.zeros(16, dtype=torch.uint8))
    assert library.begun.wait(HANG_S)
    actor.fail()
    assert "rank 1 gave up" in str(hangs.exception(HANG_S))
    learner.close()
    store.close()


def test_a_download_that_hangs_is_ended_by_the_next_one(scene: Scene, library: FakeNccl, clock: HandClock) -> None:
    """Its kernel would hold up the engine's next pause until the deadline."""
    library.hang_broadcasts = True
    scene.late_after(clock, num_broadcasts=2)
    with pytest.raises(WeightsError):
        scene.broadcast(1, 1, members=1, actor_phase_s=NEVER_S)
    library.hang_broadcasts = False
    (hanging,) = scene.downloads
    assert not hanging.done()
    assert scene.broadcast(2, 2, members=1) == [values(2)]
    assert "the group was left" in str(hanging.exception(HANG_S))


def test_torchs_process_group_of_nccl_is_not_used(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its watchdog ends the process when a broadcast misses its deadline."""

    def refuse(*args: object) -> None:
        raise AssertionError("a ProcessGroupNCCL was made")

    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", refuse, raising=False)
    before = dict(os.environ)
    assert scene.broadcast(1, 1) == [values(1)] * 2
    assert dict(os.environ) == before


def test_a_learner_sends_every_bucket_from_one_buffer_of_its_gpu(scene: Scene) -> None:
    """`meta` stands for the GPU: what matters is which memory is asked for."""
    gpu = torch.device("meta")
    sent = [scene.learner._on(gpu, flat, MANIFEST) for flat in weights(1).buckets]
    assert [flat.device for flat in sent] == [gpu] * len(MANIFEST.buckets)
    assert [flat.numel() for flat in sent] == [bucket.num_bytes for bucket in MANIFEST.buckets]
    assert {flat.untyped_storage().nbytes() for flat in sent} == {max(bucket.num_bytes for bucket in MANIFEST.buckets)}
    assert all(flat._base is scene.learner._buffer for flat in sent)
    larger = plan_buckets([("a", "uint8", (1 << 12,))], 1 << 12)
    (flat,) = (torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in larger.buckets)
    assert scene.learner._on(gpu, flat, larger).numel() == 1 << 12, "adapters may follow a base, or the other way round"


@pytest.fixture(scope="module")
def nccl_folder() -> Path:
    """Where the NCCL of torch for CUDA lies; it can be asked for some things without a GPU."""
    try:
        return Path(str(distribution("nvidia-nccl-cu13").locate_file("nvidia/nccl")))
    except PackageNotFoundError:
        pytest.skip("torch for CUDA is not installed: make test-gpu-set")


def test_the_configuration_is_laid_out_as_in_nccls_header(nccl_folder: Path) -> None:
    header = (nccl_folder / "include" / "nccl.h").read_text()
    body = header.partition("typedef struct ncclConfig_v")[2].partition("}")[0]
    fields = re.findall(r"^  (size_t|unsigned int|int|const char \*)\s*(\w+);", body, re.MULTILINE)
    kinds = {"size_t": ctypes.c_size_t, "unsigned int": ctypes.c_uint, "int": ctypes.c_int, "const char *": ctypes.c_char_p}
    ours = nccl.NcclConfig._fields_
    assert [(name, kinds[kind]) for kind, name in fields[: len(ours)]] == list(ours)
    assert "NCCL_API_MAGIC 0xcafebeef" in header
    assert re.search(r"ncclSuccess += +0", header)
    assert re.search(r"ncclInProgress += +7", header)
    assert re.search(r"NCCL_UNIQUE_ID_BYTES 128", header)


def test_nccl_itself_gives_its_version_and_ids_and_says_why_it_fails(nccl_folder: Path) -> None:
    library = nccl.NcclLibrary(str(nccl_folder / "lib" / "libnccl.so.2"))
    assert library.version > 21_800
    first, second = library.unique_id(), library.unique_id()
    assert len(first) == len(second) == 128
    assert first != second
    with pytest.raises(RuntimeError, match=r"ncclCommInitRankConfig: unhandled cuda error.*CUDA"):
        library.begin_communicator(1, first, 0)
