"""The weights plane on real GPUs: NCCL, page-locked memory, and an engine that is sent weights from three kinds of place."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import TypeVar

import pytest
import torch
from prolong.actor.weight_download import WeightDownloader
from prolong.common.config.choices import Device
from prolong.common.config.sections import WeightsConfig
from prolong.common.messages import PublishPlan, UpdateWeights
from prolong.common.weights.buckets import checksum
from prolong.common.weights.collective import CollectiveTransport
from prolong.common.weights.collective_group import Medium
from prolong.common.weights.gpu_memory import own_stream
from prolong.common.weights.nccl import NcclChannel, nccl_library
from prolong.common.weights.staging import staging_bytes
from prolong.learner.weights.packer import WeightPacker

from tests.support.engine_rig import differences, rig_for
from tests.support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
HANG_S, SHORT_S = 60.0, 2.0
FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
SPECS = [(f"layer.{i}", torch.bfloat16, (1024, 1024)) for i in range(8)]
T = TypeVar("T")


def tensors() -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator(FIRST).manual_seed(0)
    return [(name, torch.randn(shape, dtype=dtype, device=FIRST, generator=generator)) for name, dtype, shape in SPECS]


def on(device: torch.device, pool: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T]:
    """Do `work` in a thread with a stream of its own on `device`, as the weights plane does."""

    def run() -> T:
        with own_stream(device):
            return work()

    return pool.submit(run)


def connected(device: torch.device, unique_id: bytes, rank: int, world_size: int, timeout_s: float = HANG_S) -> NcclChannel:
    library = nccl_library()
    assert library is not None, "torch for CUDA brings NCCL"
    channel = NcclChannel(library, device)
    try:
        channel.connect(unique_id, rank, world_size, timeout_s)
    except RuntimeError:
        channel.abort()
        raise
    return channel


def drawn_id() -> bytes:
    library = nccl_library()
    assert library is not None, "torch for CUDA brings NCCL"
    return library.unique_id()


def test_a_communicator_of_one_broadcasts_and_is_aborted() -> None:
    with ThreadPoolExecutor(1) as pool:

        def work() -> int:
            channel = connected(FIRST, drawn_id(), 0, 1)
            flat = torch.full((1 << 20,), 7, dtype=torch.uint8, device=FIRST)
            channel.broadcast(flat, HANG_S)
            channel.abort()
            return int(flat.sum())

        assert on(FIRST, pool, work).result(HANG_S) == 7 << 20


def test_a_rank_whose_peer_never_connects_gives_up_at_the_deadline_and_the_gpu_works_on() -> None:
    with ThreadPoolExecutor(1) as pool:
        started = monotonic()
        alone = on(FIRST, pool, lambda: connected(FIRST, drawn_id(), 0, 2, SHORT_S))
        with pytest.raises(RuntimeError, match="did not connect"):
            alone.result(HANG_S)
        assert monotonic() - started < HANG_S
    assert float(torch.ones(4, device=FIRST).sum()) == 4.0


@pytest.mark.gpu(count=2)
def test_a_broadcast_reaches_another_gpu_and_one_whose_peer_stalls_ends_at_its_deadline() -> None:
    unique_id = drawn_id()
    with ThreadPoolExecutor(2) as pool:
        first = on(FIRST, pool, lambda: connected(FIRST, unique_id, 0, 2))
        second = on(SECOND, pool, lambda: connected(SECOND, unique_id, 1, 2))
        sender, receiver = first.result(HANG_S), second.result(HANG_S)
        sent = torch.arange(1 << 20, device=FIRST).to(torch.uint8)
        received = torch.zeros(1 << 20, dtype=torch.uint8, device=SECOND)
        torch.cuda.synchronize(FIRST)
        torch.cuda.synchronize(SECOND)
        sending = on(FIRST, pool, lambda: sender.broadcast(sent, HANG_S))
        on(SECOND, pool, lambda: receiver.broadcast(received, HANG_S)).result(HANG_S)
        sending.result(HANG_S)
        assert torch.equal(received.cpu(), sent.cpu())
        stalled = on(SECOND, pool, lambda: receiver.broadcast(received, SHORT_S))
        with pytest.raises(RuntimeError, match="did not end"):
            stalled.result(HANG_S)
        receiver.abort()
        sender.abort()
    assert float(torch.ones(4, device=SECOND).sum()) == 4.0


def test_weights_are_packed_into_page_locked_memory_with_the_checksums_of_a_cpu() -> None:
    packer = WeightPacker(SPECS, 4 << 20, FIRST)
    weights = packer.pack(0, tensors())
    assert all(flat.is_pinned() for flat in weights.buckets)
    on_cpu = WeightPacker(SPECS, 4 << 20).pack(0, [(name, tensor.cpu()) for name, tensor in tensors()])
    assert all(torch.equal(a, b) for a, b in zip(weights.buckets, on_cpu.buckets, strict=True))
    assert weights.checksums() == on_cpu.checksums() == [checksum(flat) for flat in weights.buckets]


@pytest.mark.parametrize(
    ("actor", "medium"),
    [
        pytest.param(FIRST, Medium.host, id="one GPU for both"),
        pytest.param(SECOND, Medium.nccl, id="a GPU each", marks=pytest.mark.gpu(count=2)),
    ],
)
def test_weights_travel_between_two_gpus_by_nccl_and_within_one_through_the_host(actor: torch.device, medium: Medium) -> None:
    end = CollectiveTransport().open_learner_end(WeightsConfig(), FIRST)
    downloader, packer = WeightDownloader(actor), WeightPacker(SPECS, 4 << 20, FIRST)
    torch.cuda.reset_peak_memory_stats(actor)
    before = torch.cuda.memory_allocated(actor)
    with closing(end), closing(downloader), ThreadPoolExecutor(1) as pool:
        weights = packer.pack(0, tensors())
        place = {"generation": 1, "version": 0, "epoch": 1}
        update = UpdateWeights(**place, member=0, num_members=1, rendezvous=end.rendezvous, manifest=packer.manifest)
        downloader.start(update, HANG_S)
        plan = PublishPlan(**place, members=["actor"])
        on(FIRST, pool, lambda: end.publish(plan, weights, HANG_S)).result(HANG_S)
        result = downloader.result(HANG_S)
        assert end._medium is medium
    assert result is not None
    assert result.error == ""
    staged = downloader.take_buckets()
    assert result.checksums == weights.checksums()
    assert all(flat.is_pinned() for flat in staged)
    assert all(torch.equal(a, b) for a, b in zip(staged, weights.buckets, strict=True))
    predicted = staging_bytes([1024 * 1024 * 2] * len(SPECS), 4 << 20)
    given = sum(flat.numel() for flat in weights.buckets)
    assert torch.cuda.max_memory_allocated(actor) - before <= predicted.actor_device + predicted.learner_device + given


@pytest.mark.parametrize(
    "learner",
    [
        pytest.param(torch.device("cpu"), id="from a CPU"),
        pytest.param(FIRST, id="from the engine's GPU"),
        pytest.param(SECOND, id="from another GPU", marks=pytest.mark.gpu(count=2)),
    ],
)
def test_an_engine_on_a_gpu_samples_with_the_weights_that_it_was_sent(learner: torch.device, tmp_path: Path) -> None:
    make_tiny_model(tmp_path, tied=True)
    rig = rig_for(tmp_path, device=Device.cuda, dtype="bfloat16", learner=learner)
    try:
        for version in range(rig.version + 1, rig.version + 4):
            rig.run(rig.push(version))
            completions = rig.generate(seed=version)
            # bfloat16 against transformers' float32
            assert differences(rig, completions, 1.0, version).mean() < 0.05
            assert differences(rig, completions, 1.0, version - 1).mean() > 0.1
    finally:
        rig.close()
